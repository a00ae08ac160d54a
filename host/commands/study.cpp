#include "cbtm/study/study.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/study/workplace.h"
#include "commands/commands.h"
#include "commands/corpus_flags.h"
#include "commands/study_flags.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

/// The verdicts, where the numbers are, and what is missing.
void print_study(const CommandLine& line, const study::Workplace& place, const std::vector<std::string>& missing) {
  const Json json = read_json_file(place.study_json());
  for (const Json& relation : json.at("relations"))
    fmt::print("{:>3}  {:<23} {}\n", relation.at("number").get<int64_t>(), relation.at("verdict").get<std::string>(),
               relation.at("claim").get<std::string>());
  for (const std::string& name : missing) fmt::print("missing: {}\n", name);
  fmt::print("results: {}\npage: {}\n", place.study_json().string(), place.page().string());
  line.write_json({{"study", place.study_json().string()},
                   {"page", place.page().string()},
                   {"missing", missing},
                   {"relations", json.at("relations")}});
}

}  // namespace

int run_study(int argc, char** argv) {
  CommandLine line(
      "study", "every system of the papers side by side on one corpus, and what of their claims holds there",
      {"cbtm study --corpus data/ --config study.json --out study/",
       "cbtm study --corpus data/ --preset nano --budgets 4M,8M,16M --seed-tokens 6M --learning-rates 6e-3",
       "cbtm study --corpus data/ --config study.json --part 2/4 --out study/    (then: cbtm study --join --out "
       "study/)",
       "(the same command goes on where it was stopped; cells that are done are skipped)"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const study::Workplace place(line.path("out"));
  if (line.get<bool>("join")) {
    check_join_flags(line);
    print_study(line, place, study::join_study(place.root()));
    return kExitSuccess;
  }
  const StudyPart part = study_part(line);
  study::StudyOptions options{.out = place.root(),
                              .config = study_config(line),
                              .part = part.part,
                              .parts = part.parts,
                              .keep_models = line.get<bool>("keep-models"),
                              .redo = line.get<bool>("redo"),
                              .memory_bytes = memory_flag(line),
                              .command = line.as_typed()};
  if (line.get<bool>("dry-run")) {
    fmt::print("{}", study::plan_text(options));
    return kExitSuccess;
  }
  options.corpus = corpus_options(line);
  check_corpus(options.corpus);
  const DeviceList devices = open_devices(line.common().device, line.common().profile);
  install_stop_signals();
  say(study::plan_text(options));
  study::make_cells(devices.all(), options);
  if (part.parts > 1) {
    fmt::print("part {} of {} is done; when all are: cbtm study --join --out {}\n", part.part, part.parts,
               place.root().string());
    return kExitSuccess;
  }
  print_study(line, place, study::join_study(place.root()));
  return kExitSuccess;
}

}  // namespace cbtm
