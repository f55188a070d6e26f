# The verbs of this project; each is a script in ci/.
.PHONY: help demo test lint sanitize fuzz schedules bench interop soak clean
help:     ; @sed -n 's/^\([a-z]*\): *; *@\?\(ci\/.*\)/make \1	\2/p' Makefile
demo:     ; @ci/demo
test:     ; @ci/test
lint:     ; @ci/lint
sanitize: ; @ci/sanitize
fuzz:     ; @ci/fuzz
schedules: ; @ci/schedules
bench:    ; @ci/bench
interop:  ; @ci/interop
soak:     ; @ci/soak
clean:    ; @ci/clean
