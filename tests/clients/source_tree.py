"""A source tree like a kernel's in small: nested directories with makefiles, headers that many files include, one program."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

ROOT_MAKEFILE = """\
DIRS := {dirs}
CFLAGS := -O0 -Iinclude -MMD
OBJECTS := $(foreach dir,$(DIRS),$(dir)/built-in.a)

program: main.o $(OBJECTS)
\t$(CC) -o $@ main.o -Wl,--whole-archive $(OBJECTS) -Wl,--no-whole-archive

main.o: main.c
\t$(CC) $(CFLAGS) -c -o $@ $<

$(OBJECTS): FORCE
\t@$(MAKE) --no-print-directory -f scripts/build.mk DIR=$(@D)

.PHONY: FORCE clean
FORCE:

clean:
\tfind . -name '*.[oad]' -delete
\trm -f program

-include main.d
"""
BUILD_MAKEFILE = """\
CFLAGS := -O0 -Iinclude -MMD
SOURCES := $(wildcard $(DIR)/*.c)
OBJECTS := $(SOURCES:.c=.o)

$(DIR)/built-in.a: $(OBJECTS)
\trm -f $@.new
\tar rcs $@.new $^
\tmv $@.new $@

$(DIR)/%.o: $(DIR)/%.c
\t$(CC) $(CFLAGS) -c -o $@ $<

-include $(OBJECTS:.o=.d)
"""


def make_source_tree(top: Path, *, seed: int, files: int) -> int:
    """Write one; returns what its program prints."""
    dice = random.Random(seed)
    directories = [f"{part}/{sub}" for part in ("drivers", "fs", "kernel") for sub in ("core", "net", "block")]
    for name in ("include", "scripts", *directories):
        (top / name).mkdir(parents=True)
    for number in range(8):
        (top / f"include/h{number}.h").write_text(f"#pragma once\n#define H{number} {number + 1}\n")
    names, total = [], 0
    for number in range(files):
        header, value = dice.randrange(8), dice.randrange(1000)
        filler = "\n".join(
            f"static int unused_{number}_{line} = {dice.randrange(1 << 30)};" for line in range(dice.randrange(60))
        )
        body = f'#include "h{header}.h"\n{filler}\nint value_{number}(void) {{ return {value} + H{header}; }}\n'
        (top / directories[number % len(directories)] / f"file{number}.c").write_text(body)
        names.append(f"value_{number}")
        total += value + header + 1
    declarations = "\n".join(f"int {name}(void);" for name in names)
    sums = " + ".join(f"{name}()" for name in names)
    (top / "main.c").write_text(f'#include <stdio.h>\n{declarations}\nint main(void) {{ printf("%d\\n", {sums}); return 0; }}\n')
    (top / "Makefile").write_text(ROOT_MAKEFILE.format(dirs=" ".join(directories)))
    (top / "scripts/build.mk").write_text(BUILD_MAKEFILE)
    (top / "scripts/link").symlink_to("../main.c")
    return total


def git(directory: Path, *arguments: str) -> str:
    """Run git there, with an identity and without the host's configuration."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *identity, "-C", str(directory), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(directory), "LC_ALL": "C"},
    )
    assert done.returncode == 0, f"git {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def make_history(tree: Path, *, seed: int, commits: int) -> None:
    """Turn a directory into a repository whose files have changed ``commits`` times."""
    dice = random.Random(seed)
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "first")
    sources = sorted(tree.rglob("*.c"))
    for number in range(commits):
        for path in dice.sample(sources, 3):
            path.write_text(path.read_text() + f"/* change {number} */\n")
        git(tree, "commit", "--quiet", "-a", "-m", f"change {number}")
    git(tree, "tag", "-a", "v1", "-m", "release")
