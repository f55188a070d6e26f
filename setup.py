"""The extensions of ipsecfast: sources, libraries, compiler flags. Everything else is in pyproject.toml."""

from __future__ import annotations

import os
import re
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
OPENSSL = os.environ.get("IPSECFAST_OPENSSL", "")  # the prefix of another one than the system's (ci/openssl)


def files(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path(".").glob(pattern))


C_SOURCES = [source for source in files("csrc/*.c") if source != IPSECMB_SOURCE]
DEPENDS = [*files("csrc/**/*.[ch]"), *files("csrc/**/*.def"), *files("ipsecfast/*.pxd")]


class OpenSsl:
    """How to compile with OpenSSL and link it: the system's, or one under a prefix, libcrypto.a before libcrypto.so.

    An extension that has a libcrypto in itself keeps its symbols to itself: other modules of the process bring theirs.
    """

    def __init__(self, prefix: str) -> None:
        self.include_dirs: list[str] = []
        self.objects: list[str] = []
        self.libraries, self.link_flags = ["crypto"], list[str]()
        if not prefix:
            return
        root = Path(prefix).resolve()
        self.include_dirs = [str(folder) for folder in (root / "include", *root.glob("include/*-linux-*"))]
        folder = next((found.parent for found in sorted(root.glob("lib*/**/libcrypto.[as]*"))), root / "lib")
        if (folder / "libcrypto.a").exists():
            self.objects, self.libraries = [str(folder / "libcrypto.a")], self._needed(folder)
            self.link_flags = ["-pthread", "-Wl,--exclude-libs,ALL"]
        else:
            self.link_flags = [f"-L{folder}", f"-Wl,-rpath,{folder}"]

    @staticmethod
    def _needed(folder: Path) -> list[str]:
        """The libraries that a libcrypto.a asks for."""
        described = folder / "pkgconfig" / "libcrypto.pc"
        private = re.search(r"^Libs\.private:(.*)$", described.read_text() if described.exists() else "", re.MULTILINE)
        return re.findall(r"-l(\S+)", private[1]) if private else ["dl"]


class BuildExt(build_ext):
    """Looks for the libraries and compiles csrc once into an archive, from which every extension is linked."""

    def build_extensions(self) -> None:
        self.openssl = OpenSsl(OPENSSL)
        sources, macros, libraries = list(C_SOURCES), [], list(self.openssl.libraries)
        if not self._links(OPENSSL_PROBE, libraries):
            wanted = f"IPSECFAST_OPENSSL={OPENSSL} has none" if OPENSSL else "apt-get install libssl-dev"
            raise SystemExit(f"ipsecfast needs OpenSSL 3 and its headers: {wanted}")
        if self._links(IPSECMB_PROBE, ["IPSec_MB"]):
            sources.append(IPSECMB_SOURCE)
            macros.append(("IPSF_HAVE_IPSECMB", "1"))
            libraries.append("IPSec_MB")
        else:
            print("libipsec-mb is not here: the engine ipsec-mb is left out (Debian, Ubuntu: libipsec-mb-dev)")
        archive = self._archive(sources, macros)
        for extension in self.extensions:
            extension.extra_objects += [archive, *self.openssl.objects]
            extension.extra_link_args += self.openssl.link_flags
            extension.depends.append(archive)
            extension.libraries += libraries
            extension.define_macros += macros
        super().build_extensions()

    def _links(self, program: str, libraries: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program)
            try:
                headers = self.openssl.include_dirs
                objects = self.compiler.compile([str(source)], folder, include_dirs=headers, extra_postargs=PROBE_FLAGS)
                self.compiler.link_executable(
                    [*objects, *self.openssl.objects], "probe", output_dir=folder, libraries=libraries,
                    extra_postargs=self.openssl.link_flags,
                )  # fmt: skip
            except Exception as error:  # distutils has no common base for its compilers' errors
                print(f"no usable {', '.join(libraries)}: {error}")
                return False
        return True

    def _archive(self, sources: list[str], macros: list[tuple[str, str]]) -> str:
        engines = "with-ipsecmb" if macros else "without-ipsecmb"
        folder = Path(self.build_temp, engines + str(Path(OPENSSL).resolve()).replace("/", "-") if OPENSSL else engines)
        archive = str(folder / self.compiler.library_filename("ipsf"))
        for other in Path(self.build_temp).glob("with*/*.a"):
            if str(other) != archive:  # so that it is new, and linked anew, should its engines come back
                other.unlink()
        if self.force or newer_group([*sources, *DEPENDS], archive, "newer"):

            def compile_one(source: str) -> list[str]:
                headers = ["csrc", "csrc/include", *self.openssl.include_dirs]
                return self.compiler.compile([source], str(folder), macros, headers, extra_postargs=C_FLAGS)

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
