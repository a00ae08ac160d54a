#include <filesystem>
#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/numbers.h"
#include "cbtm/serve/server.h"
#include "commands/command_line.h"
#include "commands/commands.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

/// The lines of a file that are neither empty nor comments.
std::vector<std::string> read_keys(const std::filesystem::path& file) {
  std::ifstream stream(file);
  if (!stream) fail("{}: cannot be read: {}", file.string(), errno_text());
  std::vector<std::string> keys;
  for (std::string line; std::getline(stream, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && line.front() != '#') keys.push_back(line);
  }
  if (keys.empty()) fail("{}: holds no key; write one in each line", file.string());
  return keys;
}

ServedFiles files_flags(const CommandLine& line) {
  if (line.given("experts") == line.given("model")) fail_usage("give --experts DIR or --model DIR, and not both");
  for (const char* flag : {"router", "run", "topk", "router-temperature", "distance-power", "routing"})
    if (line.given("model") && line.given(flag)) fail_usage("--{} is of experts, but --model serves one model", flag);
  ServedFiles files{.experts = line.path_or_none("experts"),
                    .router = line.path_or_none("router"),
                    .tokenizer = line.path_or_none("tokenizer"),
                    .run = line.path_or_none("run"),
                    .model = line.path_or_none("model"),
                    .weights = weights_flag(line)};
  const std::string top_k = line.text("topk");
  const std::optional<uint64_t> number = parse_unsigned(top_k);
  if (top_k != "all" && (!number || *number < 1 || *number > 1'000'000))
    fail_usage("--topk {}: must be a number of experts from 1, or all", top_k);
  files.top_k = top_k == "all" ? 0 : static_cast<int64_t>(*number);
  if (line.given("router-temperature")) files.temperature = line.number("router-temperature", 1e-9, 1e9);
  if (line.given("distance-power")) {
    const int64_t power = line.integer("distance-power", 2, 4);
    if (power == 3) fail_usage("--distance-power 3: use 2 or 4");
    files.distance_power = static_cast<double>(power);
  }
  files.routing = parse_routing_mode(line.text("routing"));
  if (files.routing.schedule == RoutingSchedule::fraction)
    fail_usage("--routing fraction:R needs the whole text; to generate, use token, every:N or prompt");
  if (line.given("alias")) files.alias = line.text("alias");
  return files;
}

}  // namespace

int run_serve(int argc, char** argv) {
  CommandLine line(
      "serve", "serve the experts together, or one model, to clients of OpenAI's API and to browsers",
      {"cbtm serve --experts run/experts --topk 2", "cbtm serve --model run/baseline --port 8081 --alias baseline",
       "cbtm serve --experts run/experts --host 0.0.0.0 --api-key-file keys --log requests.jsonl"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  ServerSettings settings{.files = files_flags(line)};
  settings.device = line.common().device;
  settings.memory_bytes = memory_flag(line);
  if (line.given("prompt-cache")) {
    const std::string size = line.text("prompt-cache");
    settings.prompt_cache_bytes = size == "0" ? 0 : parse_bytes(size, "--prompt-cache");
    if (settings.memory_bytes > 0 && *settings.prompt_cache_bytes > settings.memory_bytes)
      fail_usage("--prompt-cache {} is a part of --memory {}; ask for less", size, line.text("memory"));
  }
  settings.host = line.text("host");
  settings.port = static_cast<int>(line.integer("port", 0, 65535));
  settings.parallel = line.integer("parallel", 1, 4096);
  settings.queue = line.integer("queue", 1, 1 << 20);
  if (line.given("max-tokens")) settings.tokens_max = line.integer("max-tokens", 1);
  settings.timeout = line.number("timeout", 0.1, 1e6);
  settings.drain = line.number("drain", 0, 1e6);
  if (line.given("api-key-file")) settings.api_keys = read_keys(line.path("api-key-file"));
  if (line.given("api-key")) settings.api_keys.push_back(line.text("api-key"));
  if (line.given("cors-origin")) settings.cors_origin = line.text("cors-origin");
  settings.log = line.path_or_none("log");
  settings.chat_template = line.path_or_none("chat-template");
  // Before a device is opened, which may take long.
  for (const std::filesystem::path& directory : {settings.files.experts, settings.files.model})
    if (!directory.empty() && !std::filesystem::is_directory(directory))
      fail("{}: there is no such directory of experts or of a model", directory.string());
  serve(settings);
  return kExitSuccess;
}

}  // namespace cbtm
