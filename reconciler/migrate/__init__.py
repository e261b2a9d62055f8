"""From Flannel to HeadCNI: what is there, and what would change, node by node.

`formats.py` understands Flannel's files, `flannel.py` and `cluster.py` read this node and the API, `backends.py` knows
what each backend did, `plan.py` decides, purely; `reconciler/operate/migrate.py` prints it. Nothing here writes.
"""
