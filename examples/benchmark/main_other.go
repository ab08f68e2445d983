//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "the benchmark needs Linux: epoll, /proc")
	os.Exit(1)
}
