// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "loader.h"

namespace boot {
namespace {

// The emulator copies what is written to this port to its standard output, among its own lines.
constexpr uint16_t kConsolePort = 0xe9;
// Writing 'D' here stops the emulator in its debugger.
constexpr uint16_t kControlPort = 0x8900;
// Tells the program's lines from the emulator's.
constexpr char kLineMark = '\x02';

bool at_line_start = true;
uint32_t console_lock = 0;

void Out(uint16_t port, char byte) { asm volatile("outb %0, %1" ::"a"(byte), "Nd"(port)); }

void PutLocked(char c) {
  if (at_line_start) Out(kConsolePort, kLineMark);
  Out(kConsolePort, c);
  at_line_start = c == '\n';
}

}  // namespace

void PrintBytes(const char* text, size_t size) {
  while (__atomic_exchange_n(&console_lock, 1, __ATOMIC_ACQUIRE) != 0) Pause();
  for (size_t i = 0; i < size; ++i) PutLocked(text[i]);
  __atomic_store_n(&console_lock, 0, __ATOMIC_RELEASE);
}

void Print(const char* text) {
  size_t size = 0;
  while (text[size] != 0) ++size;
  PrintBytes(text, size);
}

void PrintHex(uint64_t value) {
  char digits[18] = {'0', 'x'};
  for (int i = 0; i < 16; ++i) digits[2 + i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
  PrintBytes(digits, sizeof(digits));
}

void Finish(const char* why) {
  if (!at_line_start) Print("\n");
  Print(why == nullptr ? "RESULT PASS" : "RESULT FAIL ");
  if (why != nullptr) Print(why);
  Print("\n");
  for (;;) {
    Out(kControlPort, 'D');
    asm volatile("cli; hlt");
  }
}

void FinishWithNumber(const char* why, uint64_t number) {
  Print(why);
  Print(" ");
  PrintHex(number);
  Print("\n");
  Finish(why);
}

}  // namespace boot
