"""What people do in a directory, as bash scripts: each is run in staging and in a plain directory, with the same outcome.

All begin in a copy of :func:`tests.mounted.trees.sample`. ``PYTHON`` is an interpreter and ``WHEEL`` a wheel to install. What they
print is compared as well.
"""

from __future__ import annotations

PYTHON = {
    "append": "open('words.txt', 'a').write('more'); open('new', 'a').write('more')",
    "save by rename": """
import os
for name in ("words.txt", "images/001.png", "new"):
    mode = os.stat(name).st_mode if os.path.exists(name) else 0o644
    fd = os.open(f"{name}.swp", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.write(fd, b"saved " + name.encode())
    os.fchmod(fd, mode & 0o777)
    os.fsync(fd)
    os.close(fd)
    os.rename(f"{name}.swp", name)
    directory = os.open(os.path.dirname(name) or ".", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    with open(name) as file:
        print(file.read())
""",
    "mmap": """
import mmap, os
for name, size in (("large.bin", None), ("words.txt", None), ("new", 100_000)):
    with open(name, "r+b" if size is None else "w+b") as file:
        if size is not None:
            file.truncate(size)
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[10:15] = b"FIRST"
            mapped[-5000:-4995] = b"LATER"
            mapped.flush()
            print(os.pread(file.fileno(), 5, 10), os.pread(file.fileno(), 5, len(mapped) - 5000))
            os.pwrite(file.fileno(), b"WRITE", 20)
            print(mapped[8:27])
            mapped[4096:4100] = b"LAST"  # and left to the kernel to write
""",
    "mapped and shortened": """
import mmap, os
with open("large.bin", "r+b") as file:
    with mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5_000_000:5_000_004] = b"gone"
        os.truncate("large.bin", 4_000_000)
    print(os.fstat(file.fileno()).st_size)
""",
    "positions": """
import os
fd = os.open("large.bin", os.O_RDWR)
size = os.fstat(fd).st_size
for offset, length in ((0, 1), (4095, 2), (262_144, 70_000), (3_000_000, 2_500_000), (size - 1, 1), (size - 10, 100)):
    os.pwrite(fd, bytes([offset % 251]) * length, offset)
    print(os.pread(fd, 3, max(0, offset - 1)), os.fstat(fd).st_size)
os.pwrite(fd, b"far", size + 1_000_000)
os.ftruncate(fd, size + 500_000)
print(os.lseek(fd, 0, os.SEEK_END), os.preadv(fd, [bytearray(10), bytearray(20)], 5))
os.pwritev(fd, [b"one", b"two"], 7)
os.posix_fallocate(fd, size + 400_000, 300_000)
print(os.fstat(fd).st_size, os.read(fd, 10), os.pread(fd, 10, size + 10_000_000))
os.close(fd)
""",
    "copies by the kernel": """
import os
source, target = os.open("large.bin", os.O_RDONLY), os.open("copy", os.O_RDWR | os.O_CREAT)
while os.copy_file_range(source, target, 3_000_000):
    pass
os.lseek(target, 0, os.SEEK_SET)
sent = os.open("sent", os.O_WRONLY | os.O_CREAT)
while os.sendfile(sent, target, None, 1 << 20):
    pass
print(os.stat("copy").st_size, os.stat("sent").st_size)
""",
    "unlinked but open": """
import os
for name in ("words.txt", "images/020.png", "new"):
    fd = os.open(name, os.O_RDWR | os.O_CREAT)
    os.unlink(name)
    os.pwrite(fd, b"unseen", 3)
    os.ftruncate(fd, 100)
    os.fchmod(fd, 0o600)
    status = os.fstat(fd)
    print(name, os.pread(fd, 50, 0), status.st_nlink, status.st_size, oct(status.st_mode), os.path.exists(name))
    print(sorted(os.listdir(os.path.dirname(name) or "."))[:3])
    os.close(fd)
fd = os.open("run", os.O_RDONLY)
os.rename("images/030.png", "run")
print(os.read(fd, 9), open("run", "rb").read()[:9])
""",
    "who wins": """
import errno, os
open("new", "x").close()
for call in (lambda: open("new", "x"), lambda: open("words.txt", "x"), lambda: os.mkdir("images"), lambda: os.rmdir("images"),
             lambda: os.rename("images", "images/deep/inside"), lambda: os.rename("words.txt", "images"),
             lambda: os.rename("images", "run"),
             lambda: os.rename("empty", "images"), lambda: os.unlink("images"), lambda: os.rmdir("run"),
             lambda: os.link("images", "x"),
             lambda: os.open("to-nowhere", os.O_RDONLY), lambda: os.open("images", os.O_WRONLY), lambda: os.listdir("run"),
             lambda: os.open("folder-link", os.O_RDONLY | os.O_NOFOLLOW), lambda: os.readlink("run"), lambda: os.stat("run/x"),
             lambda: os.open("n" * 256, os.O_CREAT), lambda: os.mkdir("m" * 256), lambda: os.symlink("", "x"),
             lambda: os.stat("x" * 256),
             lambda: os.open("words.txt", os.O_RDONLY | os.O_DIRECTORY), lambda: os.truncate("images", 0),
             lambda: os.rename("none", "x"),
             lambda: os.removexattr("run", "user.none"), lambda: os.getxattr("run", "user.none"),
             lambda: os.setxattr("run", "user.x", b"", os.XATTR_REPLACE), lambda: os.truncate("run", -1)):
    try:
        print("done", call())
    except OSError as error:
        print(errno.errorcode[error.errno])
os.rename("images/deep", "empty")
os.rename("run", "run")
""",
    "locks": """
import fcntl, os, subprocess, sys
other = '''
import fcntl, sys
for take in (fcntl.flock, fcntl.lockf):
    with open("words.txt", "r+") as file:
        try:
            take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("free", end=" ")
        except BlockingIOError:
            print("taken", end=" ")
'''
def ask():
    print(subprocess.run([sys.executable, "-c", other], check=True, capture_output=True, text=True).stdout)
with open("words.txt", "r+") as file:
    fcntl.flock(file, fcntl.LOCK_SH)
    ask()
    fcntl.flock(file, fcntl.LOCK_UN)
    fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
    ask()
ask()
""",
    "tree of its own": """
import os, pathlib, shutil, tempfile, zipfile
shutil.copytree("images", "copied", symlinks=True)
shutil.make_archive("archive", "zip", "copied")
with zipfile.ZipFile("archive.zip") as archive:
    archive.extractall("extracted")
    print(len(archive.namelist()), archive.testzip())
os.unlink("archive.zip")  # it holds the time of its making
with tempfile.TemporaryDirectory(dir=".") as scratch:
    pathlib.Path(scratch, "x").write_text("x")
shutil.move("extracted/deep", "moved")
shutil.rmtree("copied")
pathlib.Path("words.txt").replace("images/words")
with tempfile.TemporaryFile(dir=".") as file:
    file.write(b"x" * 10_000)
    file.seek(5_000)
    print(len(file.read()))
""",
}

SQLITE_WAL = """
import sqlite3, subprocess, sys
worker = '''
import sqlite3, sys
db = sqlite3.connect("wal.db", timeout=60, isolation_level=None)
for number in range(60):
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO t SELECT ?, coalesce(max(rank), 0) + 1, randomblob(3000) FROM t", (f"{sys.argv[1]}-{number}",))
    db.execute("COMMIT")
    seen, = db.execute("SELECT count(*) = max(rank) FROM t").fetchone()
    assert seen == 1
'''
db = sqlite3.connect("wal.db", isolation_level=None)
print(db.execute("PRAGMA journal_mode = wal").fetchone())
db.execute("CREATE TABLE t (name TEXT PRIMARY KEY, rank INTEGER, data BLOB)")
workers = [subprocess.Popen([sys.executable, "-c", worker, str(n)]) for n in range(2)]
while any(each.poll() is None for each in workers):
    count, top = db.execute("SELECT count(*), max(rank) FROM t").fetchone()
    assert count == (top or 0)
print([each.wait() for each in workers])
print(db.execute("SELECT count(*), count(DISTINCT rank) FROM t").fetchone(), db.execute("PRAGMA integrity_check").fetchone())
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
db.close()
"""

SCRIPTS = {
    "nothing": "ls -laR --time-style=+ > /dev/null",
    "cp -a": """
        cp -a images copy; cp -al images/deep hard; cp -r images plain; cp large.bin images/; cp --sparse=always large.bin sparse""",
    "rsync": """
        rsync -a images/ one/; test -z "$(rsync -ai images/ one/)"
        rsync -aHX --delete --inplace images/ one/; echo changed > images/007.png; rm images/00[1-5].png
        rsync -a --delete images/ one/; test -z "$(rsync -ai --delete images/ one/)"
        rsync -a --checksum ./large.bin one/x.bin; rsync -a --append-verify large.bin one/x.bin""",
    "tar": """
        tar cf all.tar images run link large.bin; mkdir out; tar xf all.tar -C out; tar --compare -f all.tar; rm all.tar
        tar c -C out . | tar x -C empty; tar c images | tar x -C out --overwrite; tar cz words.txt | tar tz""",
    "git": """
        git init -q -b main made; cp -a images words.txt run link made/; cd made
        git config user.email a@b; git config user.name c; git config pack.threads 1
        git add .; git commit -qm one; cd ..; git clone -q made cloned; cd cloned
        git config user.email a@b; git config user.name c
        echo more >> words.txt; git mv images/010.png images/ten.png; chmod -x run; git commit -qam two; git status --porcelain
        git checkout -q -b side HEAD~1; echo side > side; git add side; git commit -qm three; git merge -q -m merged main
        git gc -q; git fsck --strict --no-dangling; git ls-tree -r HEAD; git log --format=%H; git push -q origin side
        cd ../made; git log --all --oneline""",
    "sqlite3": """
        sqlite3 a.db "CREATE TABLE t (n INTEGER PRIMARY KEY, x TEXT); CREATE INDEX i ON t (x)"
        for i in 1 2 3 4 5; do sqlite3 a.db "BEGIN; INSERT INTO t (x) VALUES ('row $i'), ('again $i'); COMMIT"; done
        sqlite3 a.db "BEGIN; DELETE FROM t; ROLLBACK"; sqlite3 a.db "UPDATE t SET x = x || '!' WHERE n % 2; VACUUM"
        sqlite3 a.db "PRAGMA integrity_check"
        sqlite3 a.db .dump; test ! -e a.db-journal""",
    "sqlite3 wal": 'exec "$PYTHON" -c "$SQLITE_WAL"',
    "pip": """
        "$PYTHON" -m pip -q install --no-index --no-compile --no-cache-dir --disable-pip-version-check --root-user-action ignore \
            --target site "$WHEEL" 2>&1
        PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=site "$PYTHON" -c 'import small.part; print(small.part.answer)'""",
    "sed and friends": """
        sed -i 's/word 7/WORD 7/' words.txt; sort -r -o words.txt words.txt; echo line | tee -a words.txt new
        head -n 3 words.txt
        gzip words.txt; gunzip words.txt.gz; split -b 1000000 large.bin part.; cat part.* | cmp - large.bin; rm part.a[a-d]
        install -m 750 run installed; install -d -m 700 private/below; grep -rl deep . | sort; : > nothing
        echo x > images/000.png""",
    "dd": """
        dd if=/dev/zero of=large.bin bs=1 count=1 seek=5000000 conv=notrunc status=none
        dd if=words.txt of=large.bin bs=7777 seek=300 conv=notrunc,fsync status=none
        dd if=words.txt of=new bs=1M seek=3 status=none
        dd if=large.bin of=large.bin bs=64k count=5 skip=40 conv=notrunc status=none
        dd if=/dev/zero of=images/002.png bs=100 count=1 conv=nocreat status=none
        dd if=large.bin bs=128k skip=9 count=3 status=none | sha256sum
        dd if=words.txt of=new oflag=append conv=notrunc status=none""",
    "truncate": """
        truncate -s 5000001 large.bin; truncate -s +3000 words.txt; truncate -s 0 images/059.png; truncate -s 7 new
        truncate -s -1 run
        sha256sum large.bin words.txt; truncate -s 9M large.bin; sha256sum large.bin; truncate -s 100 images/050.png
        truncate -s 5000 images/050.png""",
    "fallocate": """
        fallocate -l 100000 new; fallocate -l 10M large.bin; stat -c %s new large.bin
        fallocate -p -o 3000000 -l 2000000 large.bin; fallocate -p -o 100 -l 10 words.txt; fallocate -n -l 20M new
        stat -c %s new large.bin
        fallocate -p -o 0 -l 999999999 images/040.png; sha256sum large.bin words.txt images/040.png""",
    "mkdir and rm": """
        mkdir -p a/b/c/d; touch a/b/c/d/e; rm -rf images; mkdir images; touch images/new; ls -A images; rm -rf a/b; rmdir a
        mkdir images/deep; ls -A images/deep; rm folder-link link; rm -r empty nothing; ls -A""",
    "mv": """
        mv images pictures; mv pictures/deep .; mkdir images; mv deep/er images/; mv images/er/x pictures/
        mv pictures/up images/
        mkdir target; mv -T images target; mv pictures target/in; mv target/in/003.png target/in/004.png; mv target images
        mv images/in images/in2
        mv words.txt run; mv large.bin images/in2/; mv empty images/in2/deep; find . | sort | sed -n 1,20p; rmdir deep""",
    "chmod": """
        umask 027; chmod +x words.txt images/000.png; chmod a-x run; chmod 600 large.bin; chmod -R go-rx images
        chmod 1777 empty; chmod 444 nothing
        touch made; mkdir made.d; umask 0; touch open; mkdir open.d; chmod g+s open.d; touch open.d/file; mkdir open.d/dir
        stat -c '%a %n' * | sort""",
    "touch": """
        touch -d '2001-02-03 04:05:06.789012345' words.txt new images empty; touch -r words.txt run; touch -h -d 2002-01-01 link
        touch -a -d 2003-01-01 large.bin; touch images/001.png; stat -c '%y %n' words.txt new images empty run; echo x >> new
        touch -m -d 2004-01-01 nothing
        stat -c '%x' large.bin; cp -p words.txt kept; touch -d '1969-12-31 23:59:58.5' old; stat -c %y old""",
    "ln": """
        ln words.txt second; ln images/001.png one; ln one images/uno; echo more >> second; tail -n 1 words.txt
        stat -c '%h %n' words.txt one
        rm one; mv second images/; touch a; ln a b; ln b c; rm a; ln -s words.txt soft; ln -sfn images folder-link
        ln -sr images/deep/er/x rel; readlink rel soft
        chmod 640 b; stat -c %a c; ln -f run c; ln -P soft soft2; cat folder-link/../soft2 | sed -n 1p; echo x > b
        mv b words.txt; cat images/second | tail -n 1""",
    "xattr": """
        setfattr -n user.kind -v image words.txt; setfattr -n user.empty images; setfattr -n user.bin -v 0x00ff10 large.bin
        setfattr -n user.a -v b new 2>&1 || echo none
        touch new; setfattr -n user.a -v b new; setfattr -n user.a -v c new; setfattr -n user.b -v d new
        setfattr -x user.a new; getfattr -d -m '^user' words.txt images new
        cp --preserve=xattr,mode words.txt copied; getfattr --only-values -n user.kind copied; mv words.txt moved
        getfattr -d moved; ln moved linked; getfattr -d linked""",
    "flock": """
        flock words.txt echo inside; exec 9>>lockfile; flock 9; flock -n lockfile true || echo busy; (flock -u 9)
        flock -n lockfile echo free
        for i in 1 2 3 4; do (flock 8; n=$(cat counter 2>/dev/null || echo 0); echo $((n + 1)) > counter) 8>lock & done; wait
        cat counter""",
    "names": """
        touch "$(printf 'a%.0s' {1..255})"; ! touch "$(printf 'a%.0s' {1..256})" 2>/dev/null
        mkdir ü 数据 'with space' $'new\\nline' -- -dash '*' '"'; touch 'ü/é' "💾"
        mv ü u; mv 数据 "$(printf '数%.0s' {1..85})"; ! mkdir "$(printf '数%.0s' {1..86})" 2>/dev/null; ls -b | sort
        rmdir -- -dash; touch .hidden ..double; ls -A | wc -l""",
    "deep": """
        part=$(printf 'd%.0s' {1..100}); path=.; for i in {1..35}; do path=$path/$part; done; mkdir -p $path
        echo deep > $path/file; cat $path/file
        (cd $path; mkdir below; cd below; for i in {1..10}; do mkdir $part; cd ./$part; done; echo deeper > file; cat file)
        rm -rf $path/below; ls $path""",
    "appenders": """
        for i in 1 2 3 4; do (for n in {1..60}; do echo "$i $n xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" >> log
        done) & done; wait; wc -l < log; sort log | uniq -d; sort -o log log
        exec 5>> words.txt; mv words.txt words.1; echo after >&5; echo fresh > words.txt; echo again >&5; tail -n 2 words.1""",
    "noclobber": """
        set -C; echo a > new; (echo b > new) 2>/dev/null || echo kept; echo c >| new; cat new; rm new; echo d > new; cat new""",
    "find": """
        find images -name '00*.png' -delete; find images -name '01*.png' -exec mv {} {}.old \\;; find . -type f -size +1M
        find images -newer run | sort
        find images -type f | sort | sed -n 1,5p | xargs rm; find images -name '*.png' | sort | xargs -n 10 -P 2 chmod 600
        du -sb --apparent-size words.txt""",
    "many": """
        mkdir many; cd many; for i in {1..400}; do echo $i > f$i; done; ls | wc -l; rm f?; ls | wc -l
        mkdir -p d/{a,b,c}/{1,2,3}; mv f* d/a/1/; rm -rf d/a/1/f1*; ls d/a/1 | wc -l""",
} | {f"python {name}": '"$PYTHON" -c "$SCRIPT"' for name in PYTHON}  # fmt: skip

IGNORED = {
    "git": r"(.*/)?\.git(/.*)?",  # its index holds inode numbers and times
    "sqlite3 wal": r"wal\.db.*",
}
