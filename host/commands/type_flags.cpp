#include "commands/type_flags.h"

#include <algorithm>
#include <array>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/device/dropout.h"

namespace cbtm {
namespace {

constexpr std::array<std::string_view, 5> kTypes = {"float32", "bf16", "fp16", "int8", "int4"};

/// The type's name as the table has it, or the text itself if it names none.
std::string type_name(const std::string& text) { return text == "f32" ? "float32" : text; }

bool is_type(const std::string& name) { return std::find(kTypes.begin(), kTypes.end(), name) != kTypes.end(); }

}  // namespace

WeightFormat weights_flag(const CommandLine& line) {
  const std::string name = type_name(line.text("weights"));
  constexpr std::pair<std::string_view, WeightFormat> kFormats[] = {{"float32", WeightFormat::f32},
                                                                    {"bf16", WeightFormat::bf16},
                                                                    {"int8", WeightFormat::int8},
                                                                    {"int4", WeightFormat::int4}};
  for (const auto& [format_name, format] : kFormats)
    if (name == format_name) return format;
  fail_usage("--weights {}: {}; use float32, bf16, int8 or int4", line.text("weights"),
             is_type(name) ? "weights are not kept in it" : "unknown");
}

std::string precision_flag(const CommandLine& line) {
  std::string name = type_name(line.text("precision"));
  if (name != "int8" && name != "int4") return name;  // what is no type at all is refused where devices are known
  fail_usage("--precision {}: no model is trained in it; use auto, float32, bf16 or fp16", name);
}

double dropout_flag(const CommandLine& line) {
  const double dropout = line.number("dropout", 0, 0.99);
  if (dropout > 0 && dropout < kDropoutMin)
    fail_usage("--dropout {}: probabilities are steps of 1/256; use 0 for none, or {} (1/256) and more", dropout,
               1.0 / kDropoutSteps);
  return dropout;
}

int64_t memory_flag(const CommandLine& line) {
  return line.given("memory") ? parse_bytes(line.text("memory"), "--memory") : 0;
}

}  // namespace cbtm
