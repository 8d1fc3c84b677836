"""The classes of the CAD datasets and their synsets in ShapeNet."""

# Category ids follow the alphabetical order.
SCAN2CAD_SYNSETS = {
    "bathtub": "02808440",
    "bed": "02818832",
    "bin": "02747177",
    "bookcase": "02871439",
    "cabinet": "02933112",
    "chair": "03001627",
    "display": "03211117",
    "sofa": "04256520",
    "table": "04379243",
}

NOCS_SYNSETS = {
    "bottle": "02876657",
    "bowl": "02880940",
    "camera": "02942699",
    "can": "02946921",
    "laptop": "03642806",
    "mug": "03797390",
}
