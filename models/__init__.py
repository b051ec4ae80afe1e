"""Training code of the two image-emotion papers on top of fastmmd's losses.

`python -m fastmmd.models {fit,validate,test,predict} --config ...` is the command line of a single run;
`python -m fastmmd.models.digits` is a complete comparison of the methods on real digits.
"""
