"""The Triton kernels (imported as ``fastmmd.kernels``), behind backend "triton".

Three routes compute one problem (fastmmd/problem.py), chosen by the launch table:

    small.py    training sizes: two launches, the first of which is distances.py
    tiles.py    many rows of moderate width: Gram tiles never leave the chip
    blocks.py   anything else: the platform's matrix products with one fused pass between them

arithmetic.py holds what they compute for a tile of pairs, pack.py the centred copy that the last two read, finish.py
the last sum, plan.py the problem as compile-time constants and run-time numbers, launch.py the launches.
"""
