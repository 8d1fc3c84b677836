"""Default values of the yacs config, for the keys that the classes of this package read."""

from .config import CfgNode as CN

_C = CN(
    {
        "VERSION": 2,
        "OUTPUT_DIR": "./output",
        "SEED": -1,  # negative: a random one
        "CUDNN_BENCHMARK": False,
        "FLOAT32_PRECISION": "",
        "VIS_PERIOD": 0,  # iterations between visualisations; 0 means never
    }
)

_C.INPUT = CN(
    {
        "FORMAT": "BGR",
        "MASK_FORMAT": "polygon",
        "MIN_SIZE_TRAIN": (800,),
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MAX_SIZE_TRAIN": 1333,
        "MIN_SIZE_TEST": 800,  # 0 switches resizing off
        "MAX_SIZE_TEST": 1333,
        "RANDOM_FLIP": "horizontal",
        "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
    }
)

_C.DATASETS = CN({"TRAIN": (), "TEST": ()})

_C.DATALOADER = CN(
    {
        "NUM_WORKERS": 4,
        "ASPECT_RATIO_GROUPING": True,
        "SAMPLER_TRAIN": "TrainingSampler",
        "REPEAT_THRESHOLD": 0.0,
        "REPEAT_SQRT": True,
        "FILTER_EMPTY_ANNOTATIONS": True,
    }
)

_C.MODEL = CN(
    {
        "DEVICE": "cuda",
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": False,
        "KEYPOINT_ON": False,
        "LOAD_PROPOSALS": False,
        "WEIGHTS": "",
        # In the channel order of INPUT.FORMAT; these belong to the Caffe-style weights.
        "PIXEL_MEAN": [103.530, 116.280, 123.675],
        "PIXEL_STD": [1.0, 1.0, 1.0],
    }
)

_C.MODEL.BACKBONE = CN({"NAME": "build_resnet_backbone", "FREEZE_AT": 2})

_C.MODEL.RESNETS = CN(
    {
        "DEPTH": 50,
        "OUT_FEATURES": ["res4"],
        "NORM": "FrozenBN",
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STRIDE_IN_1X1": True,  # False for weights that come from torchvision
        "RES5_DILATION": 1,
        "RES2_OUT_CHANNELS": 256,
        "STEM_OUT_CHANNELS": 64,
    }
)

_C.MODEL.FPN = CN({"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"})

_C.MODEL.ANCHOR_GENERATOR = CN(
    {
        "NAME": "DefaultAnchorGenerator",
        "SIZES": [[32, 64, 128, 256, 512]],  # pixels
        "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],  # height / width
        "OFFSET": 0.0,  # of the anchor centres, in strides
    }
)

_C.MODEL.PROPOSAL_GENERATOR = CN({"NAME": "RPN", "MIN_SIZE": 0})

_C.MODEL.RPN = CN(
    {
        "HEAD_NAME": "StandardRPNHead",
        "IN_FEATURES": ["res4"],
        "BOUNDARY_THRESH": -1,
        "IOU_THRESHOLDS": [0.3, 0.7],
        "IOU_LABELS": [0, -1, 1],
        "BATCH_SIZE_PER_IMAGE": 256,
        "POSITIVE_FRACTION": 0.5,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "SMOOTH_L1_BETA": 0.0,
        "LOSS_WEIGHT": 1.0,
        "PRE_NMS_TOPK_TRAIN": 12000,
        "PRE_NMS_TOPK_TEST": 6000,
        "POST_NMS_TOPK_TRAIN": 2000,
        "POST_NMS_TOPK_TEST": 1000,
        "NMS_THRESH": 0.7,
        "CONV_DIMS": [-1],
    }
)

_C.MODEL.ROI_HEADS = CN(
    {
        "NAME": "Res5ROIHeads",
        "NUM_CLASSES": 80,
        "IN_FEATURES": ["res4"],
        "IOU_THRESHOLDS": [0.5],
        "IOU_LABELS": [0, 1],
        "BATCH_SIZE_PER_IMAGE": 512,
        "POSITIVE_FRACTION": 0.25,
        "SCORE_THRESH_TEST": 0.05,
        "NMS_THRESH_TEST": 0.5,
        "PROPOSAL_APPEND_GT": True,
    }
)

_C.MODEL.ROI_BOX_HEAD = CN(
    {
        "NAME": "",
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "SMOOTH_L1_BETA": 0.0,
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "POOLER_TYPE": "ROIAlignV2",
        "NUM_FC": 0,
        "FC_DIM": 1024,
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_BBOX_REG": False,
        "TRAIN_ON_PRED_BOXES": False,
    }
)

_C.MODEL.ROI_MASK_HEAD = CN(
    {
        "NAME": "MaskRCNNConvUpsampleHead",
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_MASK": False,
        "POOLER_TYPE": "ROIAlignV2",
    }
)

_C.SOLVER = CN(
    {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "MAX_ITER": 40000,
        "BASE_LR": 0.001,
        "BASE_LR_END": 0.0,
        "MOMENTUM": 0.9,
        "NESTEROV": False,
        "WEIGHT_DECAY": 0.0001,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": None,  # None: as WEIGHT_DECAY
        "BIAS_LR_FACTOR": 1.0,
        "GAMMA": 0.1,
        "STEPS": (30000,),
        "NUM_DECAYS": 3,
        "WARMUP_FACTOR": 0.001,
        "WARMUP_ITERS": 1000,
        "WARMUP_METHOD": "linear",
        "RESCALE_INTERVAL": False,
        "CHECKPOINT_PERIOD": 5000,
        "IMS_PER_BATCH": 16,
        "REFERENCE_WORLD_SIZE": 0,
        "AMP": {"ENABLED": False},
        "CLIP_GRADIENTS": {
            "ENABLED": False,
            "CLIP_TYPE": "value",
            "CLIP_VALUE": 1.0,
            "NORM_TYPE": 2.0,
        },
    }
)

_C.TEST = CN({"DETECTIONS_PER_IMAGE": 100, "EVAL_PERIOD": 0, "EXPECTED_RESULTS": []})

# Keys of the real detectron2 for parts that do not exist here. Files that set them can be loaded:
# the keys are left out, and yacs logs a warning for each.
_UNSUPPORTED = {
    "DATASETS": (
        "PROPOSAL_FILES_TRAIN",
        "PROPOSAL_FILES_TEST",
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN",
        "PRECOMPUTED_PROPOSAL_TOPK_TEST",
    ),
    "MODEL": (
        "ROI_BOX_CASCADE_HEAD",
        "ROI_KEYPOINT_HEAD",
        "SEM_SEG_HEAD",
        "PANOPTIC_FPN",
        "RETINANET",
    ),
    "MODEL.ANCHOR_GENERATOR": ("ANGLES",),
    "MODEL.RESNETS": ("DEFORM_ON_PER_STAGE", "DEFORM_MODULATED", "DEFORM_NUM_GROUPS"),
    "MODEL.ROI_BOX_HEAD": (
        "USE_FED_LOSS",
        "USE_SIGMOID_CE",
        "FED_LOSS_FREQ_WEIGHT_POWER",
        "FED_LOSS_NUM_CLASSES",
    ),
    "TEST": ("KEYPOINT_OKS_SIGMAS", "AUG", "PRECISE_BN"),
}
for _section, _names in _UNSUPPORTED.items():
    for _name in _names:
        _C.register_deprecated_key(f"{_section}.{_name}")
_C.register_deprecated_key("GLOBAL")
