"""A processor whose model is a Gradio app: a Hugging Face space, or one of your own.

=================  ====================================================================
``processor``      the run: upload, the calls in their order, the outputs
``settings``       the options, checked when the worker starts
``templates``      what a call is given: inputs, parameters and earlier results
``messages``       what the app's queue says while a call waits and runs
``failures``       the texts of failures, and the code that each stands for
``app``            the requests: config, upload, join, stream, cancel, files
=================  ====================================================================

Gradio cannot resume: its queue belongs to a stream, and a stream that ends takes its
calls along. So the work of a worker that died runs anew; no attempt is paid for, since
a space costs its caller nothing.
"""
