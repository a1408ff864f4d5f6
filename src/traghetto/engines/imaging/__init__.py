"""Image engines that are built in: they compute pixels in worker processes, without model weights.

Two kinds of modules live here, and they do not mix. `backends` and `networks` are adapters of the
gateway's own process: they hand a call to a task and translate how that ended. The others run in
worker processes only, where a task names them, and are free to import Pillow, OpenCV, numpy and
ONNX Runtime at their head; nothing that a gateway imports at start may import them. `work`,
`extras`, `colours` and `instructions` are plain Python and belong to both.
"""
