
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/base/split.h"
#include "cbtm/device/moe_operands.h"
#include "cbtm/device/open_device.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "cbtm/model/upcycle.h"
#include "cbtm/plan/training_plan.h"
#include "commands/command_line.h"
#include "commands/commands.h"
#include "commands/corpus_flags.h"
#include "commands/plan_output.h"
#include "commands/training_flags.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

constexpr int64_t kMost = 65'536;  ///< experts, or devices

/// --k: "2,4,8", increasing, each once.
std::vector<int64_t> cluster_counts(const CommandLine& line) {
  std::vector<int64_t> ks;
  const std::string text = line.text("k");
  for (const std::string& word : split(text, ',')) {
    const std::optional<int64_t> k = parse_integer(word);
    if (!k || *k < 2 || *k > kMost) fail_usage("--k {}: '{}' is no number of experts, from 2 to {}", text, word, kMost);
    ks.push_back(*k);
  }
  std::sort(ks.begin(), ks.end());
  ks.erase(std::unique(ks.begin(), ks.end()), ks.end());
  return ks;
}

/// The least number of sequences that can be divided among each number of experts; 1 if none has to be.
int64_t batch_multiple(const PlanRequest& request) {
  int64_t multiple = 1;
  if (request.match_batch) return multiple;
  for (const int64_t k : request.ks) {
    multiple = std::lcm(multiple, k);
    if (multiple > kMost)
      fail_usage("no batch can be divided among all of these numbers of experts; name fewer with --k");
  }
  return multiple;
}

std::string model_name(const CommandLine& line) {
  for (const char* flag : {"preset", "config", "init"})
    if (line.given(flag)) return fmt::format("{} {}", flag, line.text(flag));
  return "";
}

class PlanCommand {
 public:
  explicit PlanCommand(const CommandLine& line)
      : line_(line), tokenizer_source_(tokenizer_source(line)), fit_(study_fit()) {
    if (!tokenizer_source_.given.empty()) tokenizer_.emplace(Tokenizer::load(tokenizer_source_.given));
    read_request();
    // What the corpus decides is tried with a stand-in, so that wrong flags are said before it is read.
    constexpr int64_t kSomeTokens = int64_t{1} << 40;
    set_trainings(kSomeTokens);
    for (const int64_t k : request_.ks) expert_settings(request_.dense, k, request_.match_batch);
    survey_options();
  }

  /// Throws a usage Error for trainings that these devices cannot do, before any work.
  void check(const DeviceList& devices) const {
    const std::vector<Device*> side_by_side(static_cast<size_t>(trains_together(devices) ? request_.devices : 1),
                                            &devices.front());
    check_training_settings(side_by_side, request_.model.spec, request_.dense);
    if (request_.seed.steps > 0) check_training_settings(side_by_side, request_.model.spec, request_.seed);
    for (const int64_t k : request_.ks)
      check_training_settings(devices.all().subspan(0, 1), request_.model.spec,
                              expert_settings(request_.dense, k, request_.match_batch));
    if (request_.mixture) check_training_settings(side_by_side, request_.mixture->spec, request_.dense);
    if (request_.larger) check_training_settings(side_by_side, request_.larger->spec, request_.dense);
  }

  void run(const DeviceList& devices) {
    const SurveyOptions options = survey_options();
    const CorpusSurvey survey = survey_corpus(options, tokenizer());
    const HeldOutSplit split = HeldOutSplit::for_corpus(survey.documents, request_.valid_fraction);
    set_trainings(static_cast<int64_t>(survey.tokens * (1 - split.valid_fraction - split.tune_fraction)));
    const std::unique_ptr<TrainingTimer> timer =
        rate_ > 0 ? given_timer(request_.model.spec, rate_) : probing_timer(devices.all(), probe_seconds_);
    CorpusStageTimes corpus_times;
    if (rate_ == 0) corpus_times = time_corpus_stages(devices.front(), survey, options, tokenizer(), request_.ks);
    const Plan plan = make_plan(devices.all(), request_, survey, corpus_times, *timer, fit_);
    fmt::print("{}model    {}: {} parameters, sequences of {} tokens\ndevice   {}, {} may be used\n\n{}",
               survey_text(survey), request_.model.name, format_count(total_parameters(request_.model.spec)),
               request_.dense.sequence_length, devices.front().description(), format_bytes(plan.free_bytes),
               plan_text(plan, request_));
    Json json = plan_json(plan, request_);
    json["corpus"] = corpus_survey_json(survey);
    json["model"] = request_.model.name;
    json["device"] = devices.front().description();
    json["command"] = line_.as_typed();
    line_.write_json(json);
  }

 private:
  const Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }

  static bool trains_together(const DeviceList& devices) { return devices.front().host_readable(&devices) == nullptr; }

  std::optional<StudyFit> study_fit() const {
    if (!line_.given("study")) return std::nullopt;
    const std::string file = line_.text("study");
    const std::optional<StudyFit> fit = parse_study_fit(read_json_file(file), file);
    if (!fit) fail("{}: holds no fit of the best number of experts; leave --study out", file);
    return fit;
  }

  void read_request() {
    const int64_t vocab_size = tokenizer_ ? tokenizer_->vocab_size() : tokenizer_source_.vocab_size;
    source_ = seed_source(line_, vocab_size);
    if (line_.given("init") && !tokenizer_)
      warn("--init without --tokenizer: a tokenizer learnt from the corpus counts other tokens than the model's own");
    request_.model = {model_name(line_), source_spec(source_)};
    if (line_.given("larger"))
      request_.larger =
          NamedModel{"dense " + line_.text("larger"), *preset_source(line_.text("larger"), vocab_size).spec};
    if (line_.given("moe-experts")) {
      const int64_t experts = line_.integer("moe-experts", kExpertsPerToken, kMaxExperts);
      request_.mixture = NamedModel{
          fmt::format("mixture of {}", experts),
          upcycled_spec(request_.model.spec, {.experts = experts, .layers = odd_layers(request_.model.spec)})};
    }
    request_.match_batch = match_batch(line_);
    request_.ks = cluster_counts(line_);
    request_.top_k = line_.integer("topk", 1, kMost);
    request_.devices = line_.integer("devices", 1, kMost);
    request_.weights = weights_flag(line_);
    request_.cached_tokens = line_.integer("cached-tokens", 0, int64_t{1} << 40);
    if (line_.given("link-rate"))
      request_.link_bytes_per_second = static_cast<double>(parse_bytes(line_.text("link-rate"), "--link-rate"));
    if (line_.given("rate")) rate_ = line_.number("rate", 1e-3, 1e12);
    probe_seconds_ = line_.number("probe-seconds", 0.1, 3600);
    if (line_.given("price-per-hour")) request_.price_per_hour = line_.number("price-per-hour", 1e-9, 1e9);
  }

  void set_trainings(int64_t corpus_tokens) {
    request_.dense = sized_settings(line_, request_.model.spec, corpus_tokens, batch_multiple(request_));
    if (request_.dense.steps < 1) fail_usage("there is no step to plan; give more --steps or --tokens");
    request_.seed = seed_settings(line_, request_.dense, source_, corpus_tokens);
  }

  SurveyOptions survey_options() const {
    return {.corpus = corpus_options(line_),
            .read_bytes_max = parse_bytes(line_.text("read"), "--read"),
            .vocab_size = tokenizer_source_.vocab_size,
            .min_frequency = tokenizer_source_.min_frequency,
            .seed = line_.common().seed};
  }

  const CommandLine& line_;
  TokenizerSource tokenizer_source_;
  std::optional<StudyFit> fit_;
  std::optional<Tokenizer> tokenizer_;
  SeedSource source_;
  PlanRequest request_;
  double rate_ = 0;  ///< tokens per second; 0: they are measured
  double probe_seconds_ = 0;
};

}  // namespace

int run_plan(int argc, char** argv) {
  CommandLine line(
      "plan",
      "memory, steps, time, disk and cost of a run for several numbers of experts, by this machine's "
      "measured rates",
      {"cbtm plan --corpus data/ --preset mini --tokens 100M --k 2,4,8,16 --devices 8",
       "cbtm plan --corpus data/ --init opt-125m/ --tokenizer opt-125m/ --k 4,8 --device cuda --memory 40G",
       "cbtm plan --corpus data/ --preset 125m --moe-experts 8 --larger 350m --rate 80000 --price-per-hour 2.50",
       "cbtm plan --corpus data/ --preset micro --study study/study.json --json plan.json",
       "(a few steps of each shape are timed, and a sample is clustered in a temporary directory)"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  PlanCommand command(line);
  const DeviceList devices = open_devices(line.common().device, line.common().profile);
  command.check(devices);
  install_stop_signals();
  command.run(devices);
  return kExitSuccess;
}

}  // namespace cbtm
