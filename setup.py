"""The one extension of ipsecfast: sources, libraries, compiler flags. Everything else is in pyproject.toml."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

IPSECMB_SOURCE = "csrc/aead_ipsecmb.c"
OUR_FLAGS = ["-O3", "-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla"]
CYTHON_FLAGS = ["-O2"]  # generated C is not written for our warnings
OPENSSL_PROBE = "#include <openssl/evp.h>\nint main(void) { return EVP_aes_128_gcm() == 0; }\n"
IPSECMB_PROBE = "#include <intel-ipsec-mb.h>\nint main(void) { return alloc_mb_mgr(0) == 0; }\n"


class BuildExt(build_ext):
    """Looks for the libraries, then compiles the sources side by side, each with the flags of its kind."""

    def build_extensions(self) -> None:
        if not self._links(OPENSSL_PROBE, "crypto"):
            raise SystemExit("ipsecfast needs OpenSSL 3 and its headers: apt-get install libssl-dev")
        if self._links(IPSECMB_PROBE, "IPSec_MB"):
            for extension in self.extensions:
                extension.sources.append(IPSECMB_SOURCE)
                extension.libraries.append("IPSec_MB")
                extension.define_macros.append(("IPSF_HAVE_IPSECMB", "1"))
        else:
            print("libipsec-mb is not here: the engine ipsec-mb is left out (Debian, Ubuntu: libipsec-mb-dev)")
        self._compile_side_by_side()
        super().build_extensions()

    def _links(self, program: str, library: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder)
                self.compiler.link_executable(objects, "probe", output_dir=folder, libraries=[library])
            except Exception as error:  # distutils has no common base for its compilers' errors
                print(f"no usable {library}: {error}")
                return False
        return True

    def _compile_side_by_side(self) -> None:
        compile_sources = self.compiler.compile

        def compile_all(sources: list[str], extra_postargs: list[str] | None = None, **options: object) -> list[str]:
            def compile_one(source: str) -> list[str]:
                flags = OUR_FLAGS if source.startswith("csrc") else CYTHON_FLAGS
                return compile_sources([source], extra_postargs=[*(extra_postargs or []), *flags], **options)

            with ThreadPoolExecutor(self.parallel or cpu_count() or 1) as pool:
                return [built for objects in pool.map(compile_one, sources) for built in objects]

        self.compiler.compile = compile_all


def files(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(".").glob(pattern))


dataplane = Extension(
    "ipsecfast.dataplane",
    sources=["ipsecfast/dataplane.pyx", *(source for source in files("csrc/*.c") if source != IPSECMB_SOURCE)],
    depends=[*files("csrc/**/*.h"), *files("csrc/**/*.def"), *files("ipsecfast/*.pxd"), IPSECMB_SOURCE],
    include_dirs=["csrc", "csrc/include", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    libraries=["crypto"],
)

setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=cythonize([dataplane], build_dir="build", compiler_directives={"language_level": 3}),
)
