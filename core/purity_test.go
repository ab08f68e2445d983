//go:build !js && !wasip1

package core

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// impure says why core may not import a package itself, or "".
func impure(goos, path string) string {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case path == "syscall/js" && goos == "js":
		return "" // the browser's clock is reached only through it
	case strings.Contains(first, "."):
		return "is not of the standard library"
	case first == "net", first == "os", first == "syscall":
		return "ties core to a system or a transport"
	}
	return ""
}

// impureBelow says why core may not depend on a package even indirectly.
func impureBelow(path string) string {
	if first, _, _ := strings.Cut(path, "/"); first == "net" || strings.Contains(path, "golang.org/x/net") {
		return "brings the network into every browser build"
	}
	return ""
}

// Core knows no transport: it runs in a browser, and whoever writes an adapter
// gets no dependency from it. Everything of the network is in adapters.
func TestPurity(t *testing.T) {
	for _, target := range []string{"linux/amd64", "darwin/arm64", "windows/amd64", "js/wasm", "wasip1/wasm"} {
		goos, goarch, _ := strings.Cut(target, "/")
		cmd := exec.Command("go", "list", "-json=Imports,Deps,CgoFiles", ".")
		cmd.Env = append(cmd.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0")
		out, err := cmd.Output()
		require.NoError(t, err, "%s", out)
		var p struct{ Imports, Deps, CgoFiles []string }
		require.NoError(t, json.Unmarshal(out, &p))
		require.Contains(t, p.Imports, "log/slog", "go list has listed nothing")
		require.Contains(t, p.Deps, "runtime")
		require.Empty(t, p.CgoFiles)
		for _, path := range p.Imports {
			require.Empty(t, impure(goos, path), "%s on %s", path, target)
		}
		for _, path := range p.Deps {
			require.Empty(t, impureBelow(path), "%s on %s", path, target)
		}
	}
}

func TestImpure(t *testing.T) {
	for _, path := range []string{"net", "net/http", "net/url", "os", "os/signal", "syscall", "syscall/js", "github.com/a/b"} {
		require.NotEmpty(t, impure("linux", path), path)
	}
	require.Empty(t, impure("js", "syscall/js"))
	require.NotEmpty(t, impure("js", "syscall"))
	for _, path := range []string{"context", "unsafe", "container/list", "encoding/json"} {
		require.Empty(t, impure("linux", path), path)
	}
	for _, path := range []string{"net", "net/netip", "vendor/golang.org/x/net/idna"} {
		require.NotEmpty(t, impureBelow(path), path)
	}
	require.Empty(t, impureBelow("internal/nettrace"))
}
