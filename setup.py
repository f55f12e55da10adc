"""What pyproject.toml cannot say: the compiled kernel, built where that is possible.

Without a C compiler, or where the build fails, the package is installed all the same and the broker
uses the plain kernel; `rsocket-broker --version` says which.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    ext_modules=cythonize(
        [Extension("broker.kernel.compiled", ["broker/kernel/compiled.pyx"], optional=True)]
    )
)
