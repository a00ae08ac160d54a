#include "cbtm/prefix/prefix_router.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/utf8.h"
#include "cbtm/model/checkpoint.h"
#include "prefix/prefix_models.h"

namespace cbtm {

struct PrefixRouter::Data {
  std::filesystem::path directory;
  Json json;  ///< router.json
  int64_t prefix_tokens = 0;
  Mixture defaults{.temperature = 1};
  ModelSpec spec;
  std::string content_hash, tokenizer_hash;
  std::vector<std::filesystem::path> model_directories;  ///< by cluster
  std::unique_ptr<Tokenizer> tokenizer;
  mutable std::mutex mutex;              ///< for the models, which take one call at a time
  std::unique_ptr<PrefixModels> models;  ///< null without a device

  const PrefixModels& ready() const {
    if (models == nullptr) fail("{}: its models have no device to run on here", directory.string());
    return *models;
  }
  /// A text's tokens, as far as the router reads them.
  std::span<const int32_t> prefix(std::span<const int32_t> ids) const {
    return ids.first(std::min(ids.size(), static_cast<size_t>(prefix_tokens)));
  }
};

namespace {

/// The tf-idf router of the same clusters, if there is one.
constexpr const char* kBesideIt = "tfidf";
constexpr const char* kRemedy = "cluster again with --redo, or restore the router's files";

std::filesystem::path model_name(int64_t cluster) {
  return std::filesystem::path("models") / fmt::format("{:03}", cluster);
}

std::string hash_of(int64_t prefix_tokens, const std::string& tokenizer_hash,
                    const std::vector<std::string>& weights_hashes) {
  std::string text = fmt::format("{} {} {}", PrefixRouter::kKind, prefix_tokens, tokenizer_hash);
  for (const std::string& hash : weights_hashes) text += " " + hash;
  return hash_hex(text);
}

/// −ln p, which is not negative but for rounding.
double surprise(float log_probability) {
  if (std::isnan(log_probability)) fail("a router model's probability is not a number; its weights are damaged");
  return std::max(0.0, -static_cast<double>(log_probability));
}

/// Bytes are encoded when they are asked about; a token's id is taken as it is.
class PrefixContext : public RoutingContext {
 public:
  PrefixContext(const PrefixRouter& router, const PrefixRouter::Data& data) : router_(router), data_(data) {}

  void append(std::string_view bytes) override {
    if (full()) return;
    text_.append(bytes);
    known_.clear();
  }
  void append_token(int32_t id, std::string_view text) override {
    if (text.empty() || full()) return;
    ids_ = tokens();
    text_.clear();
    if (full()) return;
    ids_.push_back(id);
    known_.clear();
  }
  void squared_distances(std::span<double> out) const override {
    if (known_.empty()) {
      const std::vector<int32_t> ids = tokens();
      const std::span<const int32_t> text = ids;
      known_ = router_.negative_log_likelihoods({&text, 1});
    }
    std::copy(known_.begin(), known_.end(), out.begin());
  }

 private:
  bool full() const { return static_cast<int64_t>(ids_.size()) >= data_.prefix_tokens; }
  /// The tokens so far: ids that were given, then those of the text since.
  std::vector<int32_t> tokens() const {
    std::vector<int32_t> ids = ids_;
    if (!text_.empty()) {
      const std::vector<int32_t> more = data_.tokenizer->encode(replace_invalid_utf8(text_));
      ids.insert(ids.end(), more.begin(), more.end());
    }
    ids.resize(std::min(ids.size(), static_cast<size_t>(data_.prefix_tokens)));
    return ids;
  }

  const PrefixRouter& router_;
  const PrefixRouter::Data& data_;
  std::vector<int32_t> ids_;
  std::string text_;                   ///< after them
  mutable std::vector<double> known_;  ///< distances of the text so far, once they were asked for
};

}  // namespace

PrefixRouter::PrefixRouter(std::unique_ptr<const Data> data) : data_(std::move(data)) {}
PrefixRouter::~PrefixRouter() = default;

std::unique_ptr<PrefixRouter> PrefixRouter::load(const std::filesystem::path& directory, Device* device) {
  recover_directory(directory);
  auto data = std::make_unique<Data>();
  data->directory = directory;
  const std::filesystem::path path = directory / "router.json";
  data->json = read_json_file(path);
  constexpr int64_t kClustersMax = 65'536, kTokensMax = 1 << 20;
  const JsonReader read(data->json, path.string(), kRemedy);
  if (read.text("kind") != kKind) read.at("kind").refuse(fmt::format("is not {}", kKind));
  read.integer("format", 1, 1);
  data->prefix_tokens = read.integer("prefix_tokens", 1, kTokensMax);
  data->defaults.temperature = read.number_or("temperature", 1, 1e-9, 1e9);
  data->tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(directory / "tokenizer"));
  data->tokenizer_hash = data->tokenizer->content_hash();
  if (read.text("tokenizer_hash") != data->tokenizer_hash)
    read.at("tokenizer_hash").refuse("is not that of the tokenizer beside it");
  const int64_t clusters = read.integer("clusters", 1, kClustersMax);
  std::vector<std::string> hashes = read.texts("weights_hashes");
  if (static_cast<int64_t>(hashes.size()) != clusters)
    read.at("weights_hashes").refuse(fmt::format("has {} items, but 'clusters' is {}", hashes.size(), clusters));
  for (int64_t cluster = 0; cluster < clusters; ++cluster) {
    const std::filesystem::path place = directory / model_name(cluster);
    const ModelCheckpoint checkpoint = ModelCheckpoint::open(place);
    const ModelSpec& spec = checkpoint.spec();
    if (content_verification() && checkpoint.weights_hash() != hashes[static_cast<size_t>(cluster)])
      fail("{}: is not the model that {} names; {}", place.string(), path.string(), kRemedy);
    if (spec.embedding.vocab_size < data->tokenizer->vocab_size() || spec.embedding.max_length < data->prefix_tokens)
      fail("{}: its vocabulary or its positions are too few for the router; {}", place.string(), kRemedy);
    if (cluster == 0) data->spec = spec;
    data->model_directories.push_back(place);
  }
  data->content_hash = hash_of(data->prefix_tokens, data->tokenizer_hash, hashes);
  if (read.text("content_hash") != data->content_hash)
    read.at("content_hash").refuse("does not match the router's contents");
  if (device != nullptr)
    data->models = std::make_unique<PrefixModels>(*device, data->model_directories, data->tokenizer->eos_id());
  return std::unique_ptr<PrefixRouter>(new PrefixRouter(std::move(data)));
}

int64_t PrefixRouter::clusters() const { return static_cast<int64_t>(data_->model_directories.size()); }
const std::string& PrefixRouter::content_hash() const { return data_->content_hash; }
std::string PrefixRouter::tokenizer_hash() const { return data_->tokenizer_hash; }
const Mixture& PrefixRouter::defaults() const { return data_->defaults; }
int64_t PrefixRouter::prefix_tokens() const { return data_->prefix_tokens; }
const ModelSpec& PrefixRouter::model_spec() const { return data_->spec; }

std::unique_ptr<RoutingContext> PrefixRouter::context() const {
  data_->ready();
  return std::make_unique<PrefixContext>(*this, *data_);
}

std::vector<double> PrefixRouter::negative_log_likelihoods(std::span<const std::span<const int32_t>> texts) const {
  const PrefixModels& models = data_->ready();
  std::vector<std::span<const int32_t>> prefixes;
  for (const std::span<const int32_t> text : texts) prefixes.push_back(data_->prefix(text));
  const auto columns = static_cast<size_t>(clusters());
  std::vector<double> sums(texts.size() * columns);
  const std::lock_guard lock(data_->mutex);
  for (size_t j = 0; j < columns; ++j)
    models.log_probabilities(static_cast<int64_t>(j), prefixes, [&](size_t text, std::span<const float> values) {
      for (const float value : values) sums[text * columns + j] += surprise(value);
    });
  return sums;
}

void PrefixRouter::distances_along(std::span<const KnownText> texts,
                                   const std::function<std::string_view(int32_t)>& text_of,
                                   const std::function<void()>& check_stop) const {
  const PrefixModels& models = data_->ready();
  // The tokens that are text, and how many of them the first n tokens hold.
  std::vector<std::vector<int32_t>> prefixes(texts.size());
  std::vector<std::vector<int32_t>> read(texts.size());
  for (size_t t = 0; t < texts.size(); ++t) {
    read[t].push_back(0);
    for (const int32_t id : texts[t].ids) {
      if (static_cast<int64_t>(prefixes[t].size()) < data_->prefix_tokens && !text_of(id).empty())
        prefixes[t].push_back(id);
      read[t].push_back(static_cast<int32_t>(prefixes[t].size()));
    }
  }
  const std::vector<std::span<const int32_t>> views(prefixes.begin(), prefixes.end());
  const auto columns = static_cast<size_t>(clusters());
  const std::lock_guard lock(data_->mutex);
  for (size_t j = 0; j < columns; ++j)
    models.log_probabilities(static_cast<int64_t>(j), views, [&](size_t t, std::span<const float> values) {
      check_stop();
      std::vector<double> sums(values.size() + 1);
      for (size_t s = 0; s < values.size(); ++s) sums[s + 1] = sums[s] + surprise(values[s]);
      for (size_t n = 0; n < read[t].size(); ++n)
        texts[t].squared_distances[n * columns + j] = static_cast<float>(sums[static_cast<size_t>(read[t][n])]);
    });
}

void PrefixRouter::save(const std::filesystem::path& directory, const Mixture& defaults) const {
  AtomicDirectory output(directory);
  Json json = data_->json;
  json["temperature"] = defaults.temperature;
  write_json_file(output.path() / "router.json", json);
  const auto copy = [&](const std::filesystem::path& name) {
    make_directories((output.path() / name).parent_path());
    std::error_code error;
    std::filesystem::copy(data_->directory / name, output.path() / name, std::filesystem::copy_options::recursive,
                          error);
    if (error)
      fail("{}: cannot be copied to {}: {}", (data_->directory / name).string(), directory.string(), error.message());
  };
  copy("tokenizer");
  for (int64_t cluster = 0; cluster < clusters(); ++cluster) copy(model_name(cluster));
  if (std::filesystem::exists(data_->directory / kBesideIt)) copy(kBesideIt);
  output.commit();
}

void write_prefix_router(const std::filesystem::path& directory, const PrefixRouterParts& parts) {
  std::vector<std::string> hashes;
  for (size_t j = 0; j < parts.weights.size(); ++j) {
    const std::filesystem::path place = directory / model_name(static_cast<int64_t>(j));
    make_directories(place);
    write_model_checkpoint(place, parts.spec, parts.weights[j]);
    hashes.push_back(weights_hash(parts.spec, parts.weights[j]));
  }
  make_directories(directory / "tokenizer");
  parts.tokenizer.save(directory / "tokenizer");
  Json json = parts.extra;
  json["kind"] = PrefixRouter::kKind;
  json["format"] = 1;
  json["clusters"] = parts.weights.size();
  json["prefix_tokens"] = parts.prefix_tokens;
  json["temperature"] = 1.0;
  json["tokenizer_hash"] = parts.tokenizer.content_hash();
  json["weights_hashes"] = hashes;
  json["content_hash"] = hash_of(parts.prefix_tokens, parts.tokenizer.content_hash(), hashes);
  write_json_file(directory / "router.json", json);
}

}  // namespace cbtm
