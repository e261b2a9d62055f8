"""HeadCNI beside ptp and bridge, in one run, on one machine.

Times of different runs, machines or loads do not compare, ratios of one interleaved run do; so every claim of
docs/performance.md is a ratio, and this package prints it beside the goal. Everything happens in namespaces made for
the run (network, mount, process), which vanish with it, however it ends.
"""
