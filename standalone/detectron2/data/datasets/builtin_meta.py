"""Classes and colours of COCO's 80 object categories."""

from typing import Any

__all__ = ["COCO_THING_CATEGORIES", "coco_instances_metadata"]

# Dataset id, colour (RGB, hexadecimal) and name, from COCO's panoptic category list.
_TABLE = """\
 1 dc143c person
 2 770b20 bicycle
 3 00008e car
 4 0000e6 motorcycle
 5 6a00e4 airplane
 6 003c64 bus
 7 005064 train
 8 000046 truck
 9 0000c0 boat
10 faaa1e traffic light
11 64aa1e fire hydrant
13 dcdc00 stop sign
14 af74af parking meter
15 fa001e bench
16 a52a2a bird
17 ff4dff cat
18 00e2fc dog
19 b6b6ff horse
20 005200 sheep
21 78a69d cow
22 6e4c00 elephant
23 ae39ff bear
24 c76400 zebra
25 480076 giraffe
27 ffb3f0 backpack
28 007d5c umbrella
31 d10097 handbag
32 bcd0b6 tie
33 00dcb0 suitcase
34 ff63a4 frisbee
35 5c0049 skis
36 8581ff snowboard
37 4eb4ff sports ball
38 00e400 kite
39 aefff3 baseball bat
40 2d59ff baseball glove
41 868667 skateboard
42 9194ae surfboard
43 ffd0ba tennis racket
44 c5e2ff bottle
46 ab8601 wine glass
47 6d3f36 cup
48 cf8aff fork
49 97005f knife
50 09503d spoon
51 546933 bowl
52 4a4169 banana
53 a6c466 apple
54 d0c3d2 sandwich
55 ff6d41 orange
56 008f95 broccoli
57 b300c2 carrot
58 d1636a hot dog
59 057900 pizza
60 e3ffcd donut
61 93bad0 cake
62 994501 chair
63 035fa1 couch
64 a3ff00 potted plant
65 7700aa bed
67 00b6c7 dining table
70 00a578 toilet
72 b78258 tv
73 5f2000 laptop
74 827287 mouse
75 6e8185 remote
76 a64a76 keyboard
77 db8eb9 cell phone
78 4fd272 microwave
79 b25a3e oven
80 41460f toaster
81 7fa773 sink
82 3b696a refrigerator
84 8e6c2d book
85 c4ac00 clock
86 5f3650 vase
87 804cff scissors
88 c93901 teddy bear
89 f6007a hair drier
90 bfa2d0 toothbrush
"""


def _parse(line: str) -> tuple[int, list[int], str]:
    category_id, colour, name = line.split(maxsplit=2)
    return int(category_id), list(bytes.fromhex(colour)), name


COCO_THING_CATEGORIES = tuple(_parse(line) for line in _TABLE.splitlines())


def coco_instances_metadata() -> dict[str, Any]:
    """Metadata that COCO's instance splits share.

    Returns:
        `thing_classes` (80 names), `thing_colors` (RGB, 0-255) and
        `thing_dataset_id_to_contiguous_id` (ids 1-90 with gaps -> 0-79).
    """
    ids, colours, names = zip(*COCO_THING_CATEGORIES, strict=True)
    return {
        "thing_dataset_id_to_contiguous_id": {dataset_id: i for i, dataset_id in enumerate(ids)},
        "thing_classes": list(names),
        "thing_colors": [list(colour) for colour in colours],
    }
