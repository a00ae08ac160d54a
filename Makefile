# Thin: CMake does the work. `make` leaves ./cbtm here; `make test` and `make demo` install what is missing first.
# `make cuda` leaves one with the CUDA device too: ARCH="80 90" for these GPUs alone, by default for all there are.
BUILD ?= build
JOBS ?= $(shell nproc)
ARCH ?=
NVCC := $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null)
# What the CUDA tests run on: gpu, simulator or nowhere.
CUDA_TESTS_RUN_ON = $(if $(NVCC),$(shell tests/cuda/run --where),nowhere)

.PHONY: all deps cuda build-cudasim build-cudasim-full test test-cuda test-cuda-full demo study format bench asan fuzz soak clean

all:
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD) --target cbtm -j $(JOBS)
	@cp $(BUILD)/bin/cbtm ./cbtm.partial && mv ./cbtm.partial ./cbtm
	@echo "./cbtm: the CPU device alone; $(if $(NVCC),make cuda adds the CUDA device,nvcc is not here (make cuda needs it))"

cuda:
	@test -n "$(NVCC)" || { echo "make cuda: nvcc is missing; install NVIDIA's cuda-toolkit package, or run make for the CPU device alone" >&2; exit 1; }
	@cmake -S . -B $(BUILD)-cuda -DCBTM_CUDA=ON -DCMAKE_CUDA_COMPILER=$(NVCC) \
	  "-DCMAKE_CUDA_ARCHITECTURES=$(shell scripts/cuda-architectures $(ARCH))" $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD)-cuda --target cbtm -j $(JOBS)
	@cp $(BUILD)-cuda/bin/cbtm ./cbtm.partial && mv ./cbtm.partial ./cbtm

deps:
	@scripts/install-deps.sh

test: deps
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD) -j $(JOBS)
	@cp $(BUILD)/bin/cbtm ./cbtm.partial && mv ./cbtm.partial ./cbtm
	@ctest --test-dir $(BUILD) --output-on-failure
	@$(MAKE) --no-print-directory test-cuda

# Built with a shared cudart, which the simulator replaces, and for the first GPU there is; the simulator takes PTX, that of
# 90a for the kernels which have no other. The full run has that of each architecture it names, so that what they do
# differently is run too.
CUDA_TESTS_GPU = $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1 | tr -d .)
CUDA_TESTS_ARCHITECTURES = $(if $(filter gpu,$(CUDA_TESTS_RUN_ON)),$(if $(CUDA_TESTS_GPU),$(patsubst 90,90a,$(CUDA_TESTS_GPU))-real,80-virtual),$(1))
build-cudasim: CUDA_ARCHITECTURES = $(call CUDA_TESTS_ARCHITECTURES,80-virtual)
build-cudasim-full: CUDA_ARCHITECTURES = $(call CUDA_TESTS_ARCHITECTURES,75-virtual;80-virtual;90a-virtual)
build-cudasim: HOPPER_ARCHITECTURES = $(if $(filter simulator,$(CUDA_TESTS_RUN_ON)),-DCBTM_HOPPER_ARCHITECTURES=90a-virtual)
build-cudasim build-cudasim-full:
	@cmake -S . -B $(BUILD)$(@:build%=%) -DCBTM_CUDA=ON -DCBTM_SHARED_CUDART=ON -DCMAKE_CUDA_COMPILER=$(NVCC) \
	  "-DCMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)" $(HOPPER_ARCHITECTURES) $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD)$(@:build%=%) --target cuda_tests -j $(JOBS)

ifeq ($(CUDA_TESTS_RUN_ON),nowhere)
test-cuda test-cuda-full:
	@echo "##### SKIPPED: the CUDA tests: $(if $(NVCC),there is neither a GPU nor the simulator (CBTM_CUDASIM=.../cudasim),nvcc is not here) #####"
else
test-cuda: build-cudasim
	@ctest --test-dir $(BUILD)-cudasim -L cuda -j $(JOBS) --output-on-failure
ifeq ($(CUDA_TESTS_RUN_ON),gpu)
	@scripts/test-cuda-sanitizers $(BUILD)-cudasim
endif

test-cuda-full: build-cudasim-full
	@scripts/test-cuda-full $(BUILD)-cudasim-full
endif

demo: deps all
	@scripts/demo

# Two to three hours on two cores (docs/study.md); stopped and started again it goes on.
study: deps all
	@scripts/study

format:
	@git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs clang-format -i

asan: deps
	@cmake -S . -B $(BUILD)-asan -DCBTM_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD)-asan -j $(JOBS)
	@ctest --test-dir $(BUILD)-asan -L quick --output-on-failure

# Every reader of files on damaged ones: libFuzzer with ASan and UBSan, FUZZ_SECONDS for each of FUZZ_TARGETS (by default
# all of them). What is kept of it, tests/fuzz/corpus, is replayed by make test and make asan without clang.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=
CLANG ?= clang++
fuzz: deps
	@command -v $(CLANG) > /dev/null || { echo "make fuzz: clang is missing; run scripts/install-deps.sh --fuzz, or name another one with CLANG=" >&2; exit 1; }
	@cmake -S . -B $(BUILD)-fuzz -DCMAKE_CXX_COMPILER=$(CLANG) -DCBTM_FUZZ=ON -DCBTM_SANITIZE=address,undefined \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -gline-tables-only" $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD)-fuzz --target $(if $(FUZZ_TARGETS),$(FUZZ_TARGETS:%=fuzz_%),fuzz) -j $(JOBS)
	@scripts/fuzz $(BUILD)-fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

# Random clients, good and bad, against ./cbtm serve for SOAK_SECONDS: no request without its answer, flat memory.
SOAK_SECONDS ?= 7200
SOAK_SEED ?= 1
soak: all
	@python3 tests/serve/soak.py ./cbtm $(SOAK_SECONDS) $(SOAK_SEED)

bench: all
	@scripts/bench/all

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-fuzz $(BUILD)-cuda $(BUILD)-cudasim $(BUILD)-cudasim-full cbtm
