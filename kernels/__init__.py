"""The Triton kernels (imported as ``fastmmd.kernels``), behind backend "triton".

Three routes compute one problem (fastmmd/problem.py); launch_rules.py says which one takes it:

    small.py    training sizes: two launches, of small_distances.py and of small_loss.py; no forms
    fused.py    many rows of moderate width: Gram tiles never leave the chip
    gemm.py     anything else: the platform's matrix products with one fused pass between them

arithmetic.py holds what they compute for a tile of pairs, pack.py the centred copy that the last two read, form.py the
weights of pairs beside it, finish.py the last sum, plan.py the problem as compile-time constants and run-time numbers,
launch.py the launches.

Names in kernels: ``x_ptr`` is a pointer, ``x_ptrs`` a tuple of one pointer per layer; ``b_x`` a tile of values in
registers, ``p_x`` a tile of pointers; CONSTANTS are known at compile time. A *row* and a *column* are a pair of the
pooled rows, a *feature* is a column of the inputs, and the *regions* of the Gram matrix are 0: source with source, 1:
target with target, 2: source with target. *Terms* are 0: the product of all layers' kernels, 1 + l: layer l's.
"""
