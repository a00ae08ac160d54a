#pragma once

#include <string>

#include "cbtm/model/weight_format.h"
#include "commands/command_line.h"

namespace cbtm {

// The types of numbers have one set of names for all commands: float32, bf16, fp16, int8, int4. "f32" is an older
// spelling of float32. A type that a command does not work in is a usage Error that says which ones it does.

/// --weights: what inference keeps the matrices in.
WeightFormat weights_flag(const CommandLine& line);

/// --precision: "auto", "float32", "bf16" or "fp16".
std::string precision_flag(const CommandLine& line);

/// --dropout: 0, or a probability that bytes can decide about (cbtm/device/dropout.h).
double dropout_flag(const CommandLine& line);

/// --memory: bytes of the device that the command may use, or 0 if it is not given.
int64_t memory_flag(const CommandLine& line);

}  // namespace cbtm
