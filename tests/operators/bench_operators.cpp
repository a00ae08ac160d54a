// cbtm_bench_operators: times the cases of the operators on a device.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cxxopts.hpp>
#include <iostream>

#include "cbtm/base/error.h"
#include "cbtm/base/threads.h"
#include "cbtm/device/open_device.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Median over `repetitions` of the seconds of a call. Each repetition makes as many calls as take 10 ms or more, so
/// that neither the clock nor the launch of the first kernel counts.
double seconds_per_call(Device& device, const OperatorCase& one, int repetitions) {
  OperandsOnDevice on(device, one.matrices);
  const auto seconds_of = [&](int64_t calls) {
    on.reset();  // some operators add to their results: those must not grow without bound
    device.synchronize();
    const Clock::time_point start = Clock::now();
    for (int64_t call = 0; call < calls; ++call) one.run(device, on);
    device.synchronize();
    return seconds_since(start);
  };
  one.run(device, on);
  int64_t calls = 1;
  while (calls < int64_t{1} << 20 && seconds_of(calls) < 0.01) calls *= 2;
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) seconds.push_back(seconds_of(calls) / static_cast<double>(calls));
  std::ranges::nth_element(seconds, seconds.begin() + repetitions / 2);
  return seconds[static_cast<size_t>(repetitions / 2)];
}

std::string rate(double amount, double seconds) {
  return amount > 0 ? fmt::format("{:.2f}", amount / seconds * 1e-9) : "-";
}

int run(int argc, char** argv) {
  cxxopts::Options options("cbtm_bench_operators",
                           "Times the cases of the tests' operators, each alone and again and again: operands that fit "
                           "a cache stay there.\n");
  options.add_options()  //
      ("filter", "only cases whose name contains this, such as \"linear_forward bfloat16\"",
       cxxopts::value<std::string>())("device", "cpu, cuda or cuda:N",
                                      cxxopts::value<std::string>()->default_value("cpu"))(
          "large", "cases of OPT-125m's sizes instead of the small ones that the tests check")(
          "threads", "threads of the CPU", cxxopts::value<int>()->default_value("1"))(
          "repetitions", "of which the median is taken", cxxopts::value<int>()->default_value("5"))(
          "list", "print the names and time nothing")("help", "this text");
  options.custom_help("[options]\n\nExample:\n  cbtm_bench_operators --large --filter attention --threads 2");
  const cxxopts::ParseResult flags = options.parse(argc, argv);
  if (flags.count("help") > 0) {
    std::cout << options.help();
    return 0;
  }
  const std::string filter = flags.count("filter") > 0 ? flags["filter"].as<std::string>() : "";
  const int threads = flags["threads"].as<int>(), repetitions = flags["repetitions"].as<int>();
  if (threads < 1 || repetitions < 1) fail_usage("--threads and --repetitions are 1 or more");
  CaseList cases;
  for (const NamedCase& named : operator_cases())
    if (named.large == (flags.count("large") > 0) && named.name.find(filter) != std::string::npos)
      cases.push_back(named);
  if (cases.empty()) fail_usage("--filter {}: no case has this in its name (--list shows all, --large others)", filter);
  if (flags.count("list") > 0) {
    for (const NamedCase& named : cases) std::cout << named.name << '\n';
    return 0;
  }
  set_thread_count(threads);
  const std::unique_ptr<Device> device = open_device(flags["device"].as<std::string>());
  std::cout << device->description() << "\n\n"
            << fmt::format("{:>12}  {:>8}  {:>8}  case\n", "time (us)", "GB/s", "GFLOP/s");
  for (const NamedCase& named : cases) {
    const OperatorCase one = named.make();
    if (!device->computes_in(one.computed)) continue;
    const double seconds = seconds_per_call(*device, one, repetitions);
    std::cout << fmt::format("{:>12.2f}  {:>8}  {:>8}  {}\n", seconds * 1e6, rate(one.bytes_moved(), seconds),
                             rate(one.flops, seconds), named.name)
              << std::flush;
  }
  return 0;
}

}  // namespace
}  // namespace cbtm

int main(int argc, char** argv) {
  try {
    return cbtm::run(argc, argv);
  } catch (const cxxopts::exceptions::exception& error) {
    std::cerr << "cbtm_bench_operators: " << error.what() << " (--help)\n";
    return 2;
  } catch (const cbtm::Error& error) {
    std::cerr << "cbtm_bench_operators: " << error.what() << '\n';
    return error.exit_code();
  } catch (const std::exception& error) {
    std::cerr << "cbtm_bench_operators: " << error.what() << '\n';
    return 1;
  }
}
