"""Sessions of onnxruntime, which checks, quantization and the runtime open."""


def open_session(model, threads=None, *, spin=True, **options):
    """A session on the CPU that warns of nothing.

    Args:
        model (str | bytes): path of a file, or its content.
        threads (int | None): that run one operator. None: one per core of the CPU.
        spin (bool): whether threads spin while they wait. A busy machine loses most of its speed
            to threads that do.
        options (object): further attributes of onnxruntime's ``SessionOptions``.

    Returns:
        onnxruntime.InferenceSession: ready.

    Raises:
        Exception: of onnxruntime, which exports no class for it: it cannot read the model.
    """
    import onnxruntime

    found = onnxruntime.SessionOptions()
    found.log_severity_level = 3
    if not spin:
        found.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        found.intra_op_num_threads, found.inter_op_num_threads = threads, 1
    for name, value in options.items():
        setattr(found, name, value)
    return onnxruntime.InferenceSession(model, found, providers=["CPUExecutionProvider"])
