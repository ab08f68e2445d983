// Package guides has the guides, and the test of every Markdown file's
// snippets.
package guides

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// top is the project's directory.
const top = "../.."

// excluded are the commands of snippets that are not run, and why.
var excluded = map[string]string{
	"make test": "it runs this test",
}

// A snippet is a fenced block of a Markdown file.
type snippet struct {
	file    string // relative to top
	line    int    // of its first line
	heading string // of its section, with the heading's line
	lang    string
	text    string
}

func (s snippet) name() string { return fmt.Sprintf("%s:%d", s.file, s.line) }

// files calls visit with all of the project's files but those that are
// installed or built, by their paths below top.
func files(t *testing.T, visit func(path string)) {
	require.NoError(t, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "node_modules", "dist", "testdata"}, d.Name()) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			path, err = filepath.Rel(top, path)
			visit(path)
		}
		return err
	}))
}

func documents(t *testing.T) (paths []string) {
	files(t, func(path string) {
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
	})
	require.Contains(t, paths, "README.md")
	return paths
}

func read(t *testing.T, path string) string {
	b, err := os.ReadFile(filepath.Join(top, path))
	require.NoError(t, err)
	return string(b)
}

// snippets returns those of all documents, in their order.
func snippets(t *testing.T) (all []snippet) {
	for _, path := range documents(t) {
		var open *snippet
		heading, number := "", 0
		for line := range strings.Lines(read(t, path)) {
			number++
			fence, isFence := strings.CutPrefix(line, "```")
			switch {
			case isFence && open == nil:
				open = &snippet{path, number + 1, heading, strings.TrimSpace(fence), ""}
			case isFence:
				all = append(all, *open)
				open = nil
			case open != nil:
				open.text += line
			case strings.HasPrefix(line, "#"):
				heading = fmt.Sprintf("%s:%d", path, number)
			default:
				require.NotContains(t, line, "```", "%s:%d: a fence this test does not see", path, number)
			}
		}
		require.Nil(t, open, "%s: a block without an end", path)
	}
	return all
}

// Every block is of a language that something checks: a test here, or, of js,
// wasm/test/readme.test.mjs.
func TestLanguages(t *testing.T) {
	for _, s := range snippets(t) {
		switch s.lang {
		case "go", "sh", "js":
		case "text": // what the shell snippets before it print, or a drawing
		case "yaml":
			for decoder := yaml.NewDecoder(strings.NewReader(s.text)); ; {
				var document map[string]any
				err := decoder.Decode(&document)
				if err == io.EOF {
					break
				}
				require.NoError(t, err, s.name())
			}
		default:
			t.Errorf("%s: a block of language %q, which nothing checks", s.name(), s.lang)
		}
	}
}

// Every snippet in Go compiles and passes vet: a file as it is, declarations
// and statements among the names that the documents use throughout.
func TestGo(t *testing.T) {
	const names = `
var (
	ctx         context.Context
	registry    *core.Registry
	mux         *http.ServeMux
	server      *http.Server
	executionID string
	url         string
)
`
	packages := packagesByName(t)
	dir := t.TempDir()
	mod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	root, err := filepath.Abs(top)
	require.NoError(t, err)
	write(t, filepath.Join(dir, "go.mod"), strings.ReplaceAll(string(mod), "=> "+top, "=> "+root))
	sum, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	write(t, filepath.Join(dir, "go.sum"), string(sum))

	count := 0
	for _, s := range snippets(t) {
		if s.lang != "go" {
			continue
		}
		at := fmt.Sprintf("//line %s:%d\n", s.name()[:strings.LastIndex(s.name(), ":")], s.line)
		source := at + s.text
		if !parses(source) {
			body := at + s.text + "\n"
			if !parses("package p\n" + body) {
				if !endsInReturn.MatchString(s.text) {
					body += "return nil\n"
				}
				body = "func _() error {\n" + body + "}\n"
			}
			source = withImports(packages, names+body)
			require.True(t, parses(source), "%s: neither a file nor declarations nor statements", s.name())
		}
		count++
		write(t, filepath.Join(dir, fmt.Sprintf("snippet%d", count), "snippet.go"), source)
	}
	require.NotZero(t, count)
	vet := exec.Command("go", "vet", "./...")
	vet.Dir = dir
	vet.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	out, err := vet.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%d snippets", count)
}

var endsInReturn = regexp.MustCompile(`(^|\n)return .*\n$`)

func parses(source string) bool {
	_, err := parser.ParseFile(token.NewFileSet(), "", source, 0)
	return err == nil
}

// packagesByName returns the import paths of imports_test.go.
func packagesByName(t *testing.T) map[string]string {
	f, err := parser.ParseFile(token.NewFileSet(), "imports_test.go", nil, parser.ImportsOnly)
	require.NoError(t, err)
	list := []string{"list", "-f", "{{.Name}} {{.ImportPath}}"}
	for _, i := range f.Imports {
		list = append(list, strings.Trim(i.Path.Value, `"`))
	}
	out, err := exec.Command("go", list...).Output()
	require.NoError(t, err)
	paths := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		require.NotContains(t, paths, name)
		paths[name] = path
	}
	return paths
}

// withImports makes a file of declarations. What is not declared there and
// named like a package is that package.
func withImports(packages map[string]string, declarations string) string {
	source := "package p\n" + declarations
	f, err := parser.ParseFile(token.NewFileSet(), "", source, 0)
	if err != nil {
		return source
	}
	var used []string
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && packages[x.Name] != "" && slices.Contains(f.Unresolved, x) && !slices.Contains(used, x.Name) {
				used = append(used, x.Name)
			}
		}
		return true
	})
	imports := ""
	for _, name := range used {
		imports += fmt.Sprintf("import %s %q\n", name, packages[name])
	}
	return "package p\n" + imports + declarations
}

// Every shell snippet does what it says. In a section with a program it runs
// beside that program, in a directory that has nothing else; the library comes
// from a module proxy, as if it were published. Elsewhere it runs in a fresh
// copy of the project. A command that serves on port 8080 is left running until
// its section ends, as in a terminal of its own. What a text block behind it
// shows, it has printed.
func TestShell(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "make"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	sections := [][]snippet{}
	for _, s := range snippets(t) {
		if n := len(sections); n > 0 && sections[n-1][0].heading == s.heading {
			sections[n-1] = append(sections[n-1], s)
		} else {
			sections = append(sections, []snippet{s})
		}
	}
	var missing []string // of the exclusions
	for command := range excluded {
		missing = append(missing, command)
	}
	for _, section := range sections {
		if !slices.ContainsFunc(section, func(s snippet) bool { return s.lang == "sh" }) {
			continue
		}
		t.Run(section[0].heading, func(t *testing.T) {
			port := freePort(t)
			here := func(text string) string { return strings.ReplaceAll(text, "8080", port) }
			env := append(os.Environ(), "GOWORK=off", "ARGS=-addr 127.0.0.1:"+port) // make passes ARGS on
			var dir string
			program := slices.IndexFunc(section, func(s snippet) bool { return s.lang == "go" && strings.HasPrefix(s.text, "package main") })
			if program >= 0 {
				env = append(env, published(t)...)
				dir = t.TempDir()
				write(t, filepath.Join(dir, "main.go"), here(section[program].text))
			} else {
				dir = fresh(t)
			}
			var printed string
			for _, s := range section {
				if s.lang == "text" && printed != "" {
					require.Equal(t, withoutIDs(s.text), withoutIDs(printed), s.name())
				}
				if s.lang != "sh" {
					continue
				}
				printed = ""
				for line := range strings.Lines(strings.ReplaceAll(s.text, "\\\n", " ")) {
					command, _, _ := strings.Cut(line, " # ")
					if command = strings.TrimSpace(command); command == "" || strings.HasPrefix(command, "#") {
						continue
					}
					if why, ok := excluded[command]; ok {
						t.Logf("not run: %s: %s", command, why)
						missing = slices.DeleteFunc(missing, func(c string) bool { return c == command })
						target, ok := strings.CutPrefix(command, "make ")
						require.True(t, ok)
						require.Contains(t, read(t, "Makefile"), "\n"+target+":")
						continue
					}
					out := run(t, dir, env, here(command), port)
					printed += out
				}
			}
		})
	}
	require.Empty(t, missing, "excluded, and in no snippet")
}

// run runs a command until it ends or serves on port, and returns what it has
// printed to its standard output. It fails the test if the command fails.
func run(t *testing.T, dir string, env []string, command, port string) string {
	t.Logf("$ %s", command)
	serving := dial(port) // by an earlier command
	var out, errs bytes.Buffer
	c := exec.Command("bash", "-e", "-o", "pipefail", "-c", command)
	c.Dir, c.Env, c.Stdout, c.Stderr = dir, env, &out, &errs
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = time.Second
	require.NoError(t, c.Start())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	stop := func(signal syscall.Signal) { syscall.Kill(-c.Process.Pid, signal) }
	limit := time.NewTimer(3 * time.Minute)
	defer limit.Stop()
	for {
		select {
		case err := <-ended:
			require.NoError(t, err, "%s\n%s%s", command, &out, &errs)
			return out.String()
		case <-limit.C:
			stop(syscall.SIGKILL)
			<-ended
			require.Fail(t, "has not ended", "%s\n%s%s", command, &out, &errs)
		case <-time.After(50 * time.Millisecond):
		}
		if serving || !dial(port) {
			continue
		}
		t.Cleanup(func() {
			stop(syscall.SIGINT)
			select {
			case <-ended:
			case <-time.After(time.Minute):
				stop(syscall.SIGKILL)
				<-ended
				t.Errorf("%s: an interrupt does not end it\n%s%s", command, &out, &errs)
			}
		})
		res, err := http.Get("http://127.0.0.1:" + port)
		require.NoError(t, err)
		res.Body.Close()
		require.Less(t, res.StatusCode, 500)
		return ""
	}
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

func dial(port string) bool {
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// published puts the library into a module proxy and returns the environment
// in which Go finds it there, and everything else where it did.
func published(t *testing.T) []string {
	const version = "v0.1.0"
	proxy := t.TempDir()
	path := "github.com/execcast/execcast"
	dir := filepath.Join(proxy, path, "@v")
	write(t, filepath.Join(dir, "list"), version+"\n")
	write(t, filepath.Join(dir, version+".info"), fmt.Sprintf("{%q: %q}", "Version", version))
	write(t, filepath.Join(dir, version+".mod"), read(t, "go.mod"))
	archive, err := os.Create(filepath.Join(dir, version+".zip"))
	require.NoError(t, err)
	defer archive.Close()
	require.NoError(t, zip.CreateFromDir(archive, module.Version{Path: path, Version: version}, fresh(t)))

	out, err := exec.Command("go", "env", "GOPROXY", "GOMODCACHE").Output()
	require.NoError(t, err)
	known := strings.Fields(string(out))
	require.Len(t, known, 2)
	return []string{
		"GOPROXY=file://" + proxy + ",file://" + filepath.Join(known[1], "cache/download") + "," + known[0],
		"GOMODCACHE=" + filepath.Join(proxy, "cache"), "GOFLAGS=-modcacherw", "GOSUMDB=off", "GONOSUMDB=*", "GOPRIVATE=",
	}
}

// withoutIDs hides event IDs, which begin with the clock.
func withoutIDs(text string) string {
	return strings.TrimSpace(regexp.MustCompile(`\b\d{16}\b`).ReplaceAllString(text, "ID"))
}

// Every file that a document links to is there, and so is every target of make
// that it names.
func TestReferences(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)
	target := regexp.MustCompile("[` ]make ([a-z][a-z-]+)[` ]")
	code := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	makefile := read(t, "Makefile")
	count := 0
	for _, path := range documents(t) {
		text := read(t, path)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			count++
			_, err := os.Stat(filepath.Join(top, filepath.Dir(path), m[1]))
			require.NoError(t, err, path)
		}
		for _, quoted := range code.FindAllString(text, -1) {
			for _, m := range target.FindAllStringSubmatch(quoted, -1) {
				count++
				require.Contains(t, makefile, "\n"+m[1]+":", "%s: make %s", path, m[1])
			}
		}
	}
	require.NotZero(t, count)
}

// What the comparison says of dependencies, counted again: those of other
// libraries where the benchmark has them.
func TestComparison(t *testing.T) {
	_, row, ok := strings.Cut(read(t, "examples/guides/comparison.md"), "| Modules it needs |")
	require.True(t, ok)
	cells := strings.Split(strings.Trim(row[:strings.Index(row, "\n")], " |"), " | ")
	require.Len(t, cells, 6)
	count := func(dir, path string) int {
		list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", path)
		list.Dir = dir
		out, err := list.Output()
		require.NoError(t, err)
		paths := strings.Fields(string(out))
		slices.Sort(paths)
		return len(slices.Compact(paths)) - 1
	}
	adapters := "github.com/execcast/execcast/adapters/"
	require.Equal(t, fmt.Sprintf("%d (httpsse), %d (gorillaws), %d (fasthttpsse)",
		count(".", adapters+"httpsse"), count(".", adapters+"gorillaws"), count(".", adapters+"fasthttpsse")), cells[0])
	for i, path := range map[int]string{1: "github.com/tmaxmax/go-sse", 2: "github.com/r3labs/sse/v2", 5: "github.com/olahol/melody"} {
		require.Equal(t, fmt.Sprint(count("../benchmark", path)), cells[i], path)
	}
}

func write(t *testing.T, path, text string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

// fresh returns a copy of the project.
func fresh(t *testing.T) (dir string) {
	dir = t.TempDir()
	files(t, func(path string) {
		info, err := os.Stat(filepath.Join(top, path))
		require.NoError(t, err)
		write(t, filepath.Join(dir, path), read(t, path))
		require.NoError(t, os.Chmod(filepath.Join(dir, path), info.Mode().Perm()))
	})
	return dir
}
