"""Many targets, one table and one summary, on this machine or on a cluster that is there already.

Lists, hands out, writes down and counts; each model is judged by the engine as `tiecheck DIR` judges it. May import
the engine and all below it; libraries of clusters and tables are imported in one file each, when they are asked for.
"""
