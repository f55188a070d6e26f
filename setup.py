"""The extensions of ipsecfast: sources, libraries, compiler flags. Everything else is in pyproject.toml."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

IPSECMB_SOURCE = "csrc/aead_ipsecmb.c"
C_FLAGS = ["-O3", "-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla"]
CYTHON_FLAGS = ["-O2"]  # generated C is not written for our warnings
PROBE_FLAGS = ["-Werror=implicit-function-declaration"]
OPENSSL_PROBE = "#include <openssl/evp.h>\nint main(void) { return EVP_aes_128_gcm() == 0; }\n"
IPSECMB_PROBE = "#include <intel-ipsec-mb.h>\nint main(void) { return alloc_mb_mgr(0) == 0; }\n"


def files(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(".").glob(pattern))


C_SOURCES = [source for source in files("csrc/*.c") if source != IPSECMB_SOURCE]
DEPENDS = [*files("csrc/**/*.[ch]"), *files("csrc/**/*.def"), *files("ipsecfast/*.pxd")]


class BuildExt(build_ext):
    """Looks for the libraries and compiles csrc once into an archive, from which every extension is linked."""

    def build_extensions(self) -> None:
        sources, macros, libraries = list(C_SOURCES), [], ["crypto"]
        if not self._links(OPENSSL_PROBE, "crypto"):
            raise SystemExit("ipsecfast needs OpenSSL 3 and its headers: apt-get install libssl-dev")
        if self._links(IPSECMB_PROBE, "IPSec_MB"):
            sources.append(IPSECMB_SOURCE)
            macros.append(("IPSF_HAVE_IPSECMB", "1"))
            libraries.append("IPSec_MB")
        else:
            print("libipsec-mb is not here: the engine ipsec-mb is left out (Debian, Ubuntu: libipsec-mb-dev)")
        archive = self._archive(sources, macros)
        for extension in self.extensions:
            extension.extra_objects.append(archive)
            extension.depends.append(archive)
            extension.libraries += libraries
            extension.define_macros += macros
        super().build_extensions()

    def _links(self, program: str, library: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], folder, extra_postargs=PROBE_FLAGS)
                self.compiler.link_executable(objects, "probe", output_dir=folder, libraries=[library])
            except Exception as error:  # distutils has no common base for its compilers' errors
                print(f"no usable {library}: {error}")
                return False
        return True

    def _archive(self, sources: list[str], macros: list[tuple[str, str]]) -> str:
        folder = Path(self.build_temp, "with-ipsecmb" if macros else "without-ipsecmb")
        archive = str(folder / self.compiler.library_filename("ipsf"))
        for other in Path(self.build_temp).glob("with*/*.a"):
            if str(other) != archive:  # so that it is new, and linked anew, should its engines come back
                other.unlink()
        if self.force or newer_group([*sources, *DEPENDS], archive, "newer"):

            def compile_one(source: str) -> list[str]:
                return self.compiler.compile(
                    [source], str(folder), macros, ["csrc", "csrc/include"], extra_postargs=C_FLAGS
                )

            with ThreadPoolExecutor(self.parallel or cpu_count() or 1) as pool:
                objects = [built for compiled in pool.map(compile_one, sources) for built in compiled]
            Path(archive).unlink(missing_ok=True)
            self.compiler.create_static_lib(objects, "ipsf", str(folder))
        return archive


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=cythonize(
        [
            Extension(
                f"ipsecfast.{Path(source).stem}",
                sources=[source],
                depends=DEPENDS,
                include_dirs=["csrc", "csrc/include", numpy.get_include()],
                define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
                extra_compile_args=CYTHON_FLAGS,
            )
            for source in files("ipsecfast/*.pyx")
        ],
        build_dir="build",
        compiler_directives={"language_level": 3},
    ),
)
