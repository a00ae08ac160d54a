#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "serve/job.h"
#include "serve/metrics.h"

namespace cbtm {

/// Puts into the metrics what the models' memory holds now, and what was done for it.
void count_memory(const ModelMemory& memory, ServeMetrics& metrics);

/// A session with what belongs to it: the ensemble of a catalog, or one model. Texts of jobs run in it together.
class Lane {
 public:
  /// The ensemble and its experts, or one model. Loads what is needed at once into `memory`. Experts that `before` has
  /// there, of files that have not changed, are not loaded again.
  Lane(Device& device, std::shared_ptr<const Catalog> catalog, const ServedModel& model, WeightFormat weights,
       std::shared_ptr<ModelMemory> memory, ServeMetrics& metrics, const Lane* before = nullptr);

  bool serves(const Job& job) const;
  bool serves_ensemble() const { return pool_ != nullptr; }
  const Catalog& catalog() const { return *catalog_; }
  void start(const std::shared_ptr<Job>& job, size_t text);
  /// One step of everything. Gives the jobs their updates.
  void step();
  /// Takes out the texts of jobs that were cancelled.
  void remove_cancelled();
  /// Ends all texts: "abort", or with an error.
  void end_all(const std::string& finish, const std::string& error);
  int64_t running() const { return static_cast<int64_t>(texts_.size() + scored_.size()); }
  bool uses(const Job& job) const;

 private:
  struct Text {
    std::shared_ptr<Job> job;
    size_t number = 0;
    std::string piece;    ///< not given to the job yet
    size_t given = 0;     ///< tokens
    bool scored = false;  ///< its prompt was
    Job::Clock::time_point started, last_token;
  };

  std::unique_ptr<Text> new_text(const std::shared_ptr<Job>& job, size_t number) const;
  void generate(std::unique_ptr<Text> text);
  void score_prompts();
  void score_first_prompt();
  void first_prompt_failed(const std::string& error);
  void prompt_scored(int64_t number);
  void choose_one(Text& text, TextUpdate& update);
  void give(Text& text, const Generated& so_far, bool ended);
  void count(Text& text, size_t tokens, const std::vector<std::vector<double>>& weights);

  std::shared_ptr<const Catalog> catalog_;
  const ServedModel* model_;
  ServeMetrics& metrics_;
  std::shared_ptr<ModelMemory> memory_;
  std::shared_ptr<ExpertPool> pool_;  ///< null for one model
  std::unique_ptr<NextTokenScorer> scorer_;
  std::unique_ptr<PromptScorer> prompt_scorer_;
  std::unique_ptr<Session> session_;
  std::map<int64_t, std::unique_ptr<Text>> texts_;   ///< by number in the session
  std::map<int64_t, std::unique_ptr<Text>> scored_;  ///< by number in the prompt scorer
  int64_t evictions_ = 0;                            ///< that were counted
};

}  // namespace cbtm
