"""TPU pods: scripts that make, set up, run on and delete them, and `tpu.aot`, which tries a run on a pod without having one."""
