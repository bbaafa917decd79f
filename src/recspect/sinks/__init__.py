"""Where a run is shown besides our own report: TensorBoard, Weights & Biases, MLflow, Visdom.

`recspect.sinks.sending.send` replays a run directory into a sink; `recspect.sinks.live.Live` mirrors a training while it
goes on. The run directory stays the source of truth: a sink holds copies.
"""
