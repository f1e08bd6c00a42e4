# SPDX-License-Identifier: GPL-2.0
#
# The front door.  Everything is made under build/ and out/.

.DEFAULT_GOAL := help
.PHONY: help demo demo-frames check bench kcsan stress soak fuzz coverage kernel shell lint tree refresh clean

help:
	@echo "make demo     a guest's framebuffer through a udmabuf: out/framebuffer.png"
	@echo "make demo-frames  windows that move, as compositors show them: out/frames.png"
	@echo "make check    all tests, in virtual machines, and lint"
	@echo "              (ARCH=arm64, arm64-64k or i386: those that such a machine can run)"
	@echo "make bench    what it costs, against the base, in instructions: out/bench.md, bench.png"
	@echo "              (MAINLINE=1: against Linux 7.3 as well, which is built first;"
	@echo "              SUITE=udmabuf, vfio, iommufd or hmm-range for one of the four)"
	@echo "make kcsan    tests of all parts under the data race detector"
	@echo "              (MINUTES=10: how long the range helper is stressed)"
	@echo "make stress   that stress on the debug kernel, preemptible, and udmabuf and VFIO"
	@echo "              while the machine is short of memory (MINUTES=20, each)"
	@echo "make soak     all parts at once: does anything pile up? (MINUTES=60)"
	@echo "make fuzz     programs of calls, guided by coverage (MINUTES=10)"
	@echo "make coverage which of our functions make check and make fuzz have reached: out/coverage.md"
	@echo "make kernel   both kernels, plain and debug"
	@echo "make shell    a shell in a virtual machine (KERNEL=plain or debug)"
	@echo "make lint     checkpatch, sparse, W=1, kernel-doc and script checks"
	@echo "make tree     the composed source tree: build/linux"
	@echo "make refresh  edits made in build/linux, back into files and patches"
	@echo "              (P=patch F=files where it cannot know: see README.md)"
	@echo "make series   mail-ready patches: out/series (V=2 for a second version)"
	@echo "make bisect-check  each patch: builds, options, its tests; and its series; three hours"
	@echo "              (W='SERIES/PATCH...' for some, ONLY=stage,stage: see scripts/bisect)"
	@echo "make mutants  break one guarantee at a time: does a test notice? 30 minutes"
	@echo "make cross    our objects compiled for arm64, 32-bit x86 and PREEMPT_RT"
	@echo "make deb      packages for Debian: out/deb (CONFIG=small to try, or a file)"
	@echo "make clean    remove build/ and out/"
	@echo
	@echo "BASE=<tarball or tree of Linux 6.12.y> instead of Debian's package;"
	@echo "ACCEL=kvm or tcg instead of what a probe found."

tree:
	@scripts/deps
	@scripts/tree

kernel: tree
	@scripts/build plain debug

demo: tree
	@scripts/build plain
	@scripts/demo

demo-frames: tree
	@scripts/build plain
	@scripts/demo --frames 300

check: $(if $(ARCH),tree,kernel)
	@$(if $(ARCH),scripts/deps cross && scripts/build $(ARCH))
	@scripts/check $(if $(ARCH),--kernel $(ARCH))

bench: tree
	@scripts/build plain base
	@$(if $(MAINLINE),scripts/tree mainline && scripts/build mainline)
	@scripts/bench $(if $(MAINLINE),--mainline) $(SUITE)

MINUTES ?= 10
kcsan: tree
	@scripts/build kcsan
	@scripts/check --kernel kcsan --minutes $(MINUTES)

stress: MINUTES = 20
stress: tree
	@scripts/build debug
	@scripts/check --minutes $(MINUTES) hmm-range pressure

soak: MINUTES = 60
soak: tree
	@scripts/build plain
	@scripts/check --kernel plain --minutes $(MINUTES) soak

fuzz: tree
	@scripts/deps fuzz
	@scripts/build debug
	@scripts/fuzz $(MINUTES)

coverage:
	@scripts/fuzz --coverage

KERNEL ?= plain
shell: tree
	@scripts/build $(KERNEL)
	@scripts/vm --kernel $(KERNEL) --interactive --timeout 0 'exec bash -i'

lint: tree
	@scripts/build debug
	@scripts/lint

refresh:
	@scripts/refresh $(P) $(F)

.PHONY: series bisect-check mutants cross deb
V ?= 1
series: tree
	@scripts/mail --version $(V)

bisect-check: tree
	@scripts/bisect $(if $(ONLY),--only $(ONLY)) $(W)

mutants: tree
	@scripts/build debug
	@scripts/mutants $(W)

cross: tree
	@scripts/deps cross
	@scripts/build cross-arm64 cross-i386 cross-rt

deb: tree
	@scripts/deps deb
	@scripts/build deb

clean:
	rm -rf build out
