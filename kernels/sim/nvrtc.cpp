// libnvrtc.so: compiles CUDA C++ with the host's compiler. The "cubin" is a shared object that the simulator's
// driver loads. ptx.cuh is replaced by the simulator's own, which lies beside this library.
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "runtime.h"
#include "settings.h"

namespace fs = std::filesystem;

extern char** environ;

namespace {

typedef int Result;  // nvrtcResult
enum : Result {
  SUCCESS = 0,
  PROGRAM_CREATION_FAILURE = 2,
  INVALID_INPUT = 3,
  INVALID_OPTION = 5,
  COMPILATION = 6,
};

struct File {
  std::string name, text;
};

struct Program {
  File source;
  std::vector<File> headers;
  std::string log, cubin;
};

std::string read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

bool is_file_name(const std::string& name) { return !name.empty() && fs::path(name).filename() == name; }

// Where this library lies, with runtime.h and ptx.cuh.
fs::path home() {
  Dl_info info;
  return dladdr(reinterpret_cast<void*>(&home), &info) ? fs::path(info.dli_fname).parent_path() : fs::path();
}

// What kernels ask for which architecture they are compiled: "90a" is __CUDA_ARCH__ 900 with the instructions of sm_90a.
bool define_architecture(const std::string& name, std::vector<std::string>& arguments) {
  size_t digits = name.find_first_not_of("0123456789");
  std::string number = name.substr(0, digits), rest = name.substr(number.size());
  if (number.empty() || (rest != "" && rest != "a")) return false;
  arguments.push_back("-D__CUDA_ARCH__=" + number + "0");
  if (rest == "a") arguments.push_back("-D__CUDA_ARCH_FEAT_SM" + number + "_ALL");
  return true;
}

// The compiler's arguments for one of NVRTC's options; false for an option it cannot honour.
bool translate(const std::string& option, std::vector<std::string>& arguments) {
  auto starts = [&](const char* prefix) { return option.rfind(prefix, 0) == 0; };
  if (starts("-D")) arguments.push_back(option);
  else if (starts("--define-macro=")) arguments.push_back("-D" + option.substr(strlen("--define-macro=")));
  else if (starts("--std=")) arguments.push_back("-" + option.substr(1));
  else if (starts("--gpu-architecture=sm_"))
    return define_architecture(option.substr(strlen("--gpu-architecture=sm_")), arguments);
  else return option == "--generate-line-info";  // means nothing here
  return true;
}

// Runs `arguments` in `directory`, all output into `log`. False if it could not run or did not succeed.
bool run(const std::vector<std::string>& arguments, const fs::path& directory, const fs::path& log) {
  std::vector<char*> pointers;
  for (auto& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child;
  int failed = posix_spawnp(&child, pointers[0], &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed) {
    std::ofstream(log) << arguments[0] << ": " << strerror(failed) << "\n";
    return false;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Whether NEVA_SIM asks for what needs instrumented kernels. What is wrong with it, the driver says.
bool instrumented() {
  const char* text = getenv("NEVA_SIM");
  sim::Settings settings;
  return text && sim::parse(text, settings).empty() && settings.instrumented();
}

// Instrumented code calls a hook at each access, as -fsanitize=thread has it. What kernels access is then to be what
// the source says: the options keep the compiler from joining accesses, or splitting one of 16 bytes.
const std::vector<std::string> INSTRUMENTED = {"-fsanitize=thread", "-DSIM_INSTRUMENTED", "-fno-tree-vectorize",
                                               "-fno-tree-loop-distribute-patterns", "-fno-tree-sra"};

Result compile(Program& program, const std::vector<std::string>& options, const fs::path& directory) {
  const char* named = getenv("CXX");
  std::string compiler = named ? named : "g++";
  std::string library = home().string();
  // No contraction: a multiplication and an addition round separately, the same on every host.
  std::vector<std::string> arguments = {compiler, "-std=c++17", "-O2", "-g", "-fPIC", "-fno-gnu-unique",
                                        "-ffp-contract=off", "-fvisibility=hidden"};
  for (auto& option : options) {
    if (translate(option, arguments)) continue;
    program.log = "nvrtc: error: invalid value for option: " + option + "\n";
    return INVALID_OPTION;
  }
  if (instrumented()) arguments.insert(arguments.end(), INSTRUMENTED.begin(), INSTRUMENTED.end());
  for (auto& header : program.headers) std::ofstream(directory / header.name, std::ios::binary) << header.text;
  fs::copy_file(home() / "ptx.cuh", directory / "ptx.cuh", fs::copy_options::overwrite_existing);
  std::ofstream(directory / program.source.name, std::ios::binary) << program.source.text;
  for (auto argument : {"-I.", "-I", library.c_str(), "-x", "c++", "-c", program.source.name.c_str(), "-o", "kernels.o"})
    arguments.push_back(argument);
  // Linked apart, without the sanitizer's library: the hooks are libcuda's.
  std::vector<std::string> link = {compiler, "-shared", "kernels.o", "-Wl,-z,defs", "-L" + library,
                                   "-l:libcuda.so", "-o", "kernels.so"};
  bool compiled = run(arguments, directory, directory / "log.txt");
  program.log = read(directory / "log.txt");
  if (!compiled) return COMPILATION;
  bool linked = run(link, directory, directory / "link.txt");
  program.log += read(directory / "link.txt");
  if (linked) program.cubin = read(directory / "kernels.so");
  return linked && !program.cubin.empty() ? SUCCESS : COMPILATION;
}

}  // namespace

// Caches keep compiled kernels by version: instrumented ones have another.
SIM_EXPORT Result nvrtcVersion(int* major, int* minor) {
  return *major = 13, *minor = instrumented() ? 1 : 0, SUCCESS;
}

SIM_EXPORT const char* nvrtcGetErrorString(Result code) {
  switch (code) {
    case SUCCESS: return "NVRTC_SUCCESS";
    case PROGRAM_CREATION_FAILURE: return "NVRTC_ERROR_PROGRAM_CREATION_FAILURE";
    case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case COMPILATION: return "NVRTC_ERROR_COMPILATION";
  }
  return "NVRTC_ERROR unknown";
}

SIM_EXPORT Result nvrtcCreateProgram(Program** program, const char* source, const char* name, int headers,
                                     const char* const* texts, const char* const* names) {
  auto* made = new Program{{name ? name : "default_program", source}, {}, "", ""};
  *program = made;
  if (!is_file_name(made->source.name)) return INVALID_INPUT;
  for (int i = 0; i < headers; i++) {
    if (!is_file_name(names[i])) return INVALID_INPUT;
    made->headers.push_back({names[i], texts[i]});
  }
  return SUCCESS;
}

SIM_EXPORT Result nvrtcDestroyProgram(Program** program) {
  delete *program;
  *program = nullptr;
  return SUCCESS;
}

SIM_EXPORT Result nvrtcCompileProgram(Program* program, int count, const char* const* options) {
  std::error_code ignored;
  std::string directory = (fs::temp_directory_path(ignored) / "neva-kernel-XXXXXX").string();
  if (!mkdtemp(directory.data())) {
    program->log = directory + ": " + strerror(errno) + "\n";
    return PROGRAM_CREATION_FAILURE;
  }
  Result result;
  try {
    result = compile(*program, {options, options + count}, directory);
  } catch (const std::exception& error) {
    program->log = std::string(error.what()) + "\n";
    result = PROGRAM_CREATION_FAILURE;
  }
  fs::remove_all(directory, ignored);
  return result;
}

SIM_EXPORT Result nvrtcGetProgramLogSize(Program* program, size_t* bytes) {
  return *bytes = program->log.size() + 1, SUCCESS;
}
SIM_EXPORT Result nvrtcGetProgramLog(Program* program, char* log) {
  memcpy(log, program->log.c_str(), program->log.size() + 1);
  return SUCCESS;
}
SIM_EXPORT Result nvrtcGetCUBINSize(Program* program, size_t* bytes) { return *bytes = program->cubin.size(), SUCCESS; }
SIM_EXPORT Result nvrtcGetCUBIN(Program* program, char* cubin) {
  memcpy(cubin, program->cubin.data(), program->cubin.size());
  return SUCCESS;
}
