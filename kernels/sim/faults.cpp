#include "faults.h"

#include <cstdlib>
#include <sstream>

namespace sim {

std::string Faults::parse(const char* text) {
  std::istringstream pairs(text);
  for (std::string pair; std::getline(pairs, pair, ',');) {
    size_t colon = pair.find(':');
    std::string kind = pair.substr(0, colon), number = colon == std::string::npos ? "" : pair.substr(colon + 1);
    bool digits = !number.empty() && number.find_first_not_of("0123456789") == std::string::npos;
    uint64_t n = digits && number.size() < 19 ? strtoull(number.c_str(), nullptr, 10) : 0;
    if (n == 0 || (kind != "launch" && kind != "alloc")) return pair + ": expected launch:N or alloc:N, N from 1 on";
    (kind == "launch" ? launches_ : allocations_).insert(n);
  }
  return "";
}

}  // namespace sim
