#include "settings.h"

#include <cstdlib>
#include <sstream>

namespace sim {

static bool number(const std::string& text, uint64_t& value) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) return false;
  value = strtoull(text.c_str(), nullptr, 10);
  return true;
}

static bool schedule(const std::string& value, Settings& settings) {
  if (value == "lowest") settings.schedule = Schedule::Lowest;
  else if (value == "highest") settings.schedule = Schedule::Highest;
  else if (value == "round") settings.schedule = Schedule::Round;
  else if (value.rfind("random:", 0) == 0 && number(value.substr(7), settings.seed)) settings.schedule = Schedule::Random;
  else return false;
  return true;
}

std::string parse(const char* text, Settings& settings) {
  std::istringstream pairs(text);
  for (std::string pair; std::getline(pairs, pair, ',');) {
    size_t equals = pair.find('=');
    std::string key = pair.substr(0, equals), value = equals == std::string::npos ? "" : pair.substr(equals + 1);
    if (key == "schedule") {
      if (!schedule(value, settings)) return "schedule=" + value + ": expected lowest, highest, round or random:SEED";
    } else if (pair == "late" || pair == "early") {
      settings.early = pair == "early";
    } else if (key == "memory") {
      uint64_t bytes;
      if (!number(value, bytes)) return "memory=" + value + ": expected a number of bytes";
      settings.memory_bytes = bytes;
    } else {
      return pair + ": expected schedule=…, late, early or memory=…";
    }
  }
  return "";
}

}  // namespace sim
