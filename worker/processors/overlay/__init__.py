"""A garment laid over a photo on the CPU: geometry and colours, no generative AI.

The way of a picture: :mod:`~.pose` finds the body in the photo, :mod:`~.parts` says
which pixels are skin, hair and old clothes; :mod:`~.outline` cuts the garment out of
its plain ground and :mod:`~.keypoints` finds its neck, shoulders, sleeves and hem.
:mod:`~.placement` and :mod:`~.sleeves` say where on the body each of those points
belongs, :mod:`~.spline` bends the garment there, :mod:`~.erase` takes away the old
clothes that would look out from under it, :mod:`~.light` shades it, and
:mod:`~.layering` lays it between the body and the head, arms and hands.
:mod:`~.refusals` says early what cannot be done.

Only :mod:`~.processor` and :mod:`~.weights` can be imported without the extra
``overlay``; the others import OpenCV and NumPy.
"""
