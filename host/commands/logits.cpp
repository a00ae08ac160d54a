#include <fmt/format.h>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/device/open_device.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/inference.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "commands/commands.h"
#include "commands/generation_flags.h"
#include "commands/type_flags.h"

namespace cbtm {

int run_logits(int argc, char** argv) {
  CommandLine line("logits", "write a model's logits for given ids",
                   {"cbtm logits --model opt-125m/ --ids ids.json --out logits.safetensors"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  check_writable(line.path("out"), OutputKind::logits);
  line.check_no_input(line.path("out"), "out");
  const auto rows = read_id_lists(line.path("ids"));
  std::vector<int32_t> ids, offsets = {0};
  for (const std::vector<int32_t>& row : rows) {
    if (row.size() != rows.front().size() || row.empty())
      fail("{}: rows must have one length and not be empty", line.text("ids"));
    ids.insert(ids.end(), row.begin(), row.end());
    offsets.push_back(static_cast<int32_t>(ids.size()));
  }
  ModelCheckpoint::open(line.path("model"));  // what is wrong with the files is said first
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  const auto model = InferenceModel::load(*device, line.path("model"), weights_flag(line));
  const int64_t vocab_size = model->vocab_size();
  std::vector<float> logits(ids.size() * static_cast<size_t>(vocab_size));
  model->logits({ids, offsets}, logits);
  const std::vector<int64_t> shape = {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows.front().size()),
                                      vocab_size};
  const OutputTensor tensors[] = {{"logits", StoredType::f32, shape, logits.data()}};
  write_safetensors(line.path("out"), tensors);
  fmt::print("{}: [{}, {}, {}]\n", line.text("out"), shape[0], shape[1], shape[2]);
  line.write_json({{"shape", shape}});
  return kExitSuccess;
}

}  // namespace cbtm
