#include "prefix/round_state.h"

#include <system_error>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/prefix/prefix_clustering.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {
namespace {

constexpr const char* kMoments = "moments.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kMomentNames[] = {"first_moments", "second_moments"};

std::string moment_name(const char* name, size_t model) { return fmt::format("{}.{:03}", name, model); }

}  // namespace

std::filesystem::path round_directory(const std::filesystem::path& work_directory) { return work_directory / "round"; }

void write_round_state(const std::filesystem::path& work_directory, const Json& identity, const RoundState& state,
                       const ModelSpec& spec, int64_t prefix_tokens, const Tokenizer& tokenizer) {
  AtomicDirectory output(round_directory(work_directory));
  std::vector<std::vector<float>> weights;
  std::vector<OutputTensor> moments;
  for (size_t j = 0; j < state.models.size(); ++j) {
    const ModelState& model = state.models[j];
    const auto size = static_cast<int64_t>(model.weights.size());
    weights.push_back(model.weights);
    moments.push_back({moment_name(kMomentNames[0], j), StoredType::f32, {size}, model.first_moments.data()});
    moments.push_back({moment_name(kMomentNames[1], j), StoredType::f32, {size}, model.second_moments.data()});
  }
  write_prefix_router(output.path(), {.prefix_tokens = prefix_tokens,
                                      .spec = spec,
                                      .weights = weights,
                                      .tokenizer = tokenizer,
                                      .extra = {{"rounds", state.rounds}}});
  write_safetensors(output.path() / kMoments, moments);
  write_json_file(output.path() / kState, {{"identity", identity},
                                           {"rounds", state.rounds},
                                           {"losses", state.losses},
                                           {"relative_gap", state.relative_gap},
                                           {"moments", content_hashes(output.path(), {kMoments})}});
  output.commit();
}

std::optional<RoundState> read_round_state(const std::filesystem::path& work_directory, const Json& identity,
                                           const ModelSpec& spec, int64_t clusters) {
  const std::filesystem::path directory = round_directory(work_directory);
  recover_directory(directory);
  if (!std::filesystem::exists(directory / kState)) return std::nullopt;
  try {
    const Json json = read_json_file(directory / kState);
    const JsonReader read(json, (directory / kState).string());
    if (read.at("identity").json() != identity) {
      say(fmt::format("{}: is of another clustering; the router's models begin anew", directory.string()));
      return std::nullopt;
    }
    verify_content(directory, kMoments, read.object("moments").json());
    PrefixRouter::load(directory, nullptr);  // its models are those that it names
    RoundState state{.rounds = read.integer("rounds", 1, INT32_MAX), .relative_gap = read.number("relative_gap")};
    for (size_t i = 0; i < read.list("losses").size(); ++i)
      state.losses.push_back(read.list("losses").item(i).as_number());
    const TensorFile moments = TensorFile::open(directory / kMoments);
    const auto size = static_cast<size_t>(ParameterLayout(spec).flat_size());
    for (size_t j = 0; j < static_cast<size_t>(clusters); ++j) {
      ModelState model;
      model.weights.resize(size);
      ModelCheckpoint::open(directory / "models" / fmt::format("{:03}", j))
          .read_parameters(DType::f32, model.weights.data());
      model.first_moments = moments.at(moment_name(kMomentNames[0], j)).values<float>();
      model.second_moments = moments.at(moment_name(kMomentNames[1], j)).values<float>();
      if (model.first_moments.size() != size || model.second_moments.size() != size)
        fail("{}: holds moments of another model", (directory / kMoments).string());
      state.models.push_back(std::move(model));
    }
    return state;
  } catch (const Error& error) {
    warn(fmt::format("{}; the router's models begin anew", error.what()));
    return std::nullopt;
  }
}

void remove_prefix_state(const std::filesystem::path& work_directory) {
  remove_output_directory(round_directory(work_directory));
  std::error_code ignored;
  std::filesystem::remove(work_directory, ignored);                // only if it is empty
  std::filesystem::remove(work_directory.parent_path(), ignored);  // likewise
}

}  // namespace cbtm
