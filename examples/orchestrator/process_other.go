//go:build !unix

package main

import "os/exec"

// Without process groups only the command itself is ended, not what it has
// started.

func ownGroup(*exec.Cmd) {}

func terminateGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }

func killGroup(*exec.Cmd) {}
