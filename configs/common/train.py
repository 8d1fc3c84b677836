"""Settings of a training; each key is explained in `roca_nocs.engine.config.TrainSettings`."""

train = dict(
    output_dir="./output",
    init_checkpoint="",
    init_modules=[],
    seed=-1,
    device=None,
    max_iter=90000,
    fast_dev_run=dict(enabled=False),
    accumulation_steps=1,
    amp=dict(enabled=False, dtype="float16"),
    clip_gradients=dict(norm=None, value=None, per_parameter=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    ema=dict(enabled=False, decay=0.9998, evaluate_raw=False),
    checkpointer=dict(period=5000, max_to_keep=5),
    best=dict(metric=None, maximize=True),
    eval_period=5000,
    log_period=20,
    wandb=dict(enabled=False, project="roca_nocs", name=None),
    cudnn_benchmark=False,
    float32_precision="",
)
