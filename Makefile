# Build, install and try ipfs-exec. `make help` lists the targets.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
# Where rustup puts cargo, which root or a script may not have in its path.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Names under which the program takes the arguments of an older tool.
ALIASES := ipfs-execute ipfs-ls-r ipfs-merge ipfs-mkdir ipfs-publish-swap ipfs-orphans \
    ipfs-api-mount ipfs-api-mount-whole

.PHONY: help build install uninstall demo test images clean

help:
	@echo 'make build              build the release binary'
	@echo 'make install PREFIX=DIR build, then install into DIR/bin (default $(PREFIX))'
	@echo 'make uninstall          remove what install put there'
	@echo 'make demo               run a first program, from nothing to its result'
	@echo 'make test               install what the tests need and run all of them'
	@echo 'make images             make the example root file systems'
	@echo 'make clean              remove what was built'

build:
	$(CARGO) build --release --locked --package ipfs-exec

install: build
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -m 755 '$(TARGET)/release/ipfs-exec' '$(DESTDIR)$(PREFIX)/bin/ipfs-exec'
	for name in $(ALIASES); do ln -sf ipfs-exec '$(DESTDIR)$(PREFIX)'/bin/$$name || exit; done

uninstall:
	for name in ipfs-exec $(ALIASES); do rm -f '$(DESTDIR)$(PREFIX)'/bin/$$name || exit; done

demo:
	./examples/demo.sh

test:
	./tests/run.sh

images: examples/images/busybox/rootfs.tar.gz

examples/images/busybox/rootfs.tar.gz: $(addprefix examples/images/busybox/,build.sh tree.sh init)
	./examples/images/busybox/build.sh $@

clean:
	$(CARGO) clean
	rm -f examples/images/*/rootfs.tar.gz
