# Thin: CMake does the work. `make` leaves ./cbtm here; `make test` and `make demo` install what is missing first.
BUILD ?= build
JOBS ?= $(shell nproc)

.PHONY: all deps test demo format bench asan clean

all:
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD) --target cbtm -j $(JOBS)
	@cp $(BUILD)/bin/cbtm ./cbtm.partial && mv ./cbtm.partial ./cbtm

deps:
	@scripts/install-deps.sh

test: deps
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD) -j $(JOBS)
	@cp $(BUILD)/bin/cbtm ./cbtm.partial && mv ./cbtm.partial ./cbtm
	@ctest --test-dir $(BUILD) --output-on-failure

demo: deps all
	@scripts/demo

format:
	@git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs clang-format -i

asan: deps
	@cmake -S . -B $(BUILD)-asan -DCBTM_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo > /dev/null
	@cmake --build $(BUILD)-asan -j $(JOBS)
	@ctest --test-dir $(BUILD)-asan -L quick --output-on-failure

bench: all
	@scripts/bench/all

clean:
	rm -rf $(BUILD) $(BUILD)-asan cbtm
