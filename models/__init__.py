"""Training code of the first of two papers on image emotions (He & Ding 2020) on top of fastmmd's losses.

`python -m fastmmd.models {fit,validate,test,predict} --config ...` is the command line of a single run;
`python -m fastmmd.models.digits` is a complete comparison of the methods on real digits.
"""
