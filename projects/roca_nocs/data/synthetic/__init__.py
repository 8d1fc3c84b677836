"""The embedded datasets: procedural rooms and table tops with exact ground truth.

``models`` builds CAD models, ``rooms`` and ``tabletop`` arrange them, ``cameras`` looks at them and
``render`` draws them. Everything is a pure function of a seed.
"""
