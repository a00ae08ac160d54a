#include "cbtm/base/error.h"
#include "cbtm/model/families.h"
#include "cbtm/model/preset_names.h"

namespace cbtm {
namespace {

/// A preset's shape; everything else is the default.
struct Preset {
  const char* name;
  int64_t layers, hidden_size, heads, ffn_dim, projection;
  bool pre_norm;
  int64_t positions;
};

// The published sizes, and before them small ones of ours for a laptop (docs/opt-format.md, 'Presets').
constexpr Preset kPresets[] = {
    {"nano", 2, 64, 2, 256, 64, true, 1024},           {"micro", 3, 128, 4, 512, 128, true, 1024},
    {"mini", 4, 192, 6, 768, 192, true, 1024},         {"small", 6, 384, 6, 1536, 384, true, 1024},
    {"125m", 12, 768, 12, 3072, 768, true, 2048},      {"350m", 24, 1024, 16, 4096, 512, false, 2048},
    {"1.3b", 24, 2048, 32, 8192, 2048, true, 2048},    {"2.7b", 32, 2560, 32, 10240, 2560, true, 2048},
    {"6.7b", 32, 4096, 32, 16384, 4096, true, 2048},   {"13b", 40, 5120, 40, 20480, 5120, true, 2048},
    {"30b", 48, 7168, 56, 28672, 7168, true, 2048},    {"66b", 64, 9216, 72, 36864, 9216, true, 2048},
    {"175b", 96, 12288, 96, 49152, 12288, true, 2048},
};

}  // namespace

std::vector<std::string> model_preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

ModelSpec model_preset(const std::string& name) {
  for (const Preset& preset : kPresets) {
    if (name != preset.name) continue;
    return parse_model_spec({{"model_type", "opt"},
                             {"num_hidden_layers", preset.layers},
                             {"hidden_size", preset.hidden_size},
                             {"num_attention_heads", preset.heads},
                             {"ffn_dim", preset.ffn_dim},
                             {"word_embed_proj_dim", preset.projection},
                             {"do_layer_norm_before", preset.pre_norm},
                             {"max_position_embeddings", preset.positions}},
                            "--preset " + name);
  }
  std::string names;
  for (const Preset& preset : kPresets) names += std::string(names.empty() ? "" : ", ") + preset.name;
  fail_usage("--preset {}: unknown; use one of {}", name, names);
}

}  // namespace cbtm
