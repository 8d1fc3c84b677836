"""From ScanNet25k, Scan2CAD and ShapeNetCore as their authors publish them to ROCA's layout.

``convert.py`` plans and runs, ``annotations.py`` reads Scan2CAD, ``frames.py`` reads ScanNet,
``cads.py`` and ``scenes.py`` write the CAD models and the scenes.
"""
