"""Training code of the first of two papers on image emotions (He & Ding 2020) on top of fastmmd's losses.

`python -m fastmmd.models {fit,validate,test,predict} --config ...` is the command line of a single run. Complete
comparisons of the methods are `python -m fastmmd.models.emotion`, the paper's own, `python -m fastmmd.models.emoji`
and `python -m fastmmd.models.digits`.
"""
