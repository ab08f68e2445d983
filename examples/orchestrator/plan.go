package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Plan is what a run executes: commands, and which of them wait for which.
type Plan struct {
	Title string
	Tasks []Task // in the file's order, IDs unique, dependencies free of cycles
}

// A Task is one command. It starts once every task it depends on has succeeded.
type Task struct {
	ID        string   `json:"id"`
	Title     string   `json:"title"`
	Command   []string `json:"command"` // argv; no shell is involved
	DependsOn []string `json:"dependsOn"`
}

// parsePlan reads a plan from JSON. Its errors name the file and the field, or
// the line where the JSON itself is broken.
func parsePlan(file string, data []byte) (*Plan, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: not valid UTF-8", file)
	}
	if err := checkSyntax(file, data); err != nil {
		return nil, err
	}
	fields, err := node{file: file, raw: data}.object("title", "tasks")
	if err != nil {
		return nil, err
	}
	var plan Plan
	if plan.Title, err = fields["title"].text(); err != nil {
		return nil, err
	}
	tasks, err := fields["tasks"].list()
	if err != nil {
		return nil, err
	}
	if len(tasks) == 0 {
		return nil, fields["tasks"].errorf("no task")
	}
	seen := map[string]int{}
	for i, n := range tasks {
		task, err := parseTask(n)
		if err != nil {
			return nil, err
		}
		if first, dup := seen[task.ID]; dup {
			return nil, n.child("id").errorf("%q is the id of tasks[%d] already", task.ID, first)
		}
		seen[task.ID] = i
		plan.Tasks = append(plan.Tasks, task)
	}
	return &plan, checkDependencies(file, plan.Tasks, seen)
}

func parseTask(n node) (task Task, err error) {
	fields, err := n.object("id", "title", "command", "dependsOn?")
	if err != nil {
		return task, err
	}
	if task.ID, err = fields["id"].text(); err != nil {
		return task, err
	}
	if task.Title, err = fields["title"].text(); err != nil {
		return task, err
	}
	command, err := fields["command"].list()
	if err != nil {
		return task, err
	}
	if len(command) == 0 {
		return task, fields["command"].errorf("is empty: want a program and its arguments")
	}
	for i, arg := range command {
		s, err := arg.string()
		switch {
		case err != nil:
			return task, err
		case i == 0 && s == "":
			return task, arg.errorf("is empty: want a program")
		case strings.ContainsRune(s, 0):
			return task, arg.errorf("contains a NUL character")
		}
		task.Command = append(task.Command, s)
	}
	task.DependsOn = []string{}
	if fields["dependsOn"].raw == nil {
		return task, nil
	}
	dependsOn, err := fields["dependsOn"].list()
	if err != nil {
		return task, err
	}
	for _, dep := range dependsOn {
		id, err := dep.text()
		if err != nil {
			return task, err
		}
		if slices.Contains(task.DependsOn, id) {
			return task, dep.errorf("%q is listed twice", id)
		}
		task.DependsOn = append(task.DependsOn, id)
	}
	return task, nil
}

// checkDependencies refuses dependencies on tasks that are not there, and
// cycles.
func checkDependencies(file string, tasks []Task, index map[string]int) error {
	at := func(i, k int) node {
		return node{file: file, path: fmt.Sprintf("tasks[%d].dependsOn[%d]", i, k)}
	}
	for i, task := range tasks {
		for k, id := range task.DependsOn {
			if _, ok := index[id]; !ok {
				return at(i, k).errorf("no task %q", id)
			}
		}
	}
	cleared := make([]bool, len(tasks)) // no cycle is reachable from these
	var visit func(i int, path []string) error
	visit = func(i int, path []string) error {
		path = append(path, tasks[i].ID)
		for k, id := range tasks[i].DependsOn {
			if start := slices.Index(path, id); start >= 0 {
				return at(i, k).errorf("cycle: %s", strings.Join(append(path[start:], id), " -> "))
			}
			if j := index[id]; !cleared[j] {
				if err := visit(j, path); err != nil {
					return err
				}
			}
		}
		cleared[i] = true
		return nil
	}
	for i := range tasks {
		if err := visit(i, nil); err != nil {
			return err
		}
	}
	return nil
}

// checkSyntax reports what is not one JSON value by line and column, as editors
// count.
func checkSyntax(file string, data []byte) error {
	var value json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(&value)
	offset := dec.InputOffset()
	if err == nil {
		if _, err = dec.Token(); err == io.EOF {
			return nil
		}
		offset += int64(len(data[offset:]) - len(bytes.TrimLeft(data[offset:], " \t\r\n")))
		err = fmt.Errorf("unexpected text after the plan")
	} else if syntax, ok := err.(*json.SyntaxError); ok {
		offset = syntax.Offset - 1
	} else { // the input ends too early
		offset = int64(len(data))
		err = fmt.Errorf("unexpected end of the file")
	}
	before := data[:offset]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + utf8.RuneCount(before[1+bytes.LastIndexByte(before, '\n'):])
	return fmt.Errorf("%s:%d:%d: %w", file, line, column, err)
}

// A node is one value of the file and where it stands, so that every complaint
// can name its field. raw is valid JSON, or nil for an optional field that is
// absent.
type node struct {
	file, path string
	raw        json.RawMessage
}

func (n node) errorf(format string, args ...any) error {
	where := n.file
	if n.path != "" {
		where += ": " + n.path
	}
	return fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...))
}

func (n node) child(name string) node {
	if n.path != "" {
		name = n.path + "." + name
	}
	return node{file: n.file, path: name}
}

// object returns the fields by name. Those without a trailing "?" must be
// there, and no others may.
func (n node) object(names ...string) (map[string]node, error) {
	dec := json.NewDecoder(bytes.NewReader(n.raw))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, n.errorf("want an object, have %s", n.kind())
	}
	fields := map[string]node{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, n.errorf("%v", err)
		}
		name := key.(string)
		field := n.child(name)
		if !slices.Contains(names, name) && !slices.Contains(names, name+"?") {
			return nil, field.errorf("unknown field")
		}
		if _, dup := fields[name]; dup {
			return nil, field.errorf("appears twice")
		}
		if err := dec.Decode(&field.raw); err != nil {
			return nil, field.errorf("%v", err)
		}
		fields[name] = field
	}
	for _, name := range names {
		if _, ok := fields[name]; !ok && !strings.HasSuffix(name, "?") {
			return nil, n.child(name).errorf("is missing")
		}
	}
	return fields, nil
}

func (n node) list() ([]node, error) {
	var raws []json.RawMessage
	if err := json.Unmarshal(n.raw, &raws); err != nil || raws == nil {
		return nil, n.errorf("want an array, have %s", n.kind())
	}
	nodes := make([]node, len(raws))
	for i, raw := range raws {
		nodes[i] = node{file: n.file, path: fmt.Sprintf("%s[%d]", n.path, i), raw: raw}
	}
	return nodes, nil
}

func (n node) string() (string, error) {
	var s *string
	if err := json.Unmarshal(n.raw, &s); err != nil || s == nil {
		return "", n.errorf("want a string, have %s", n.kind())
	}
	return *s, nil
}

// text is a string that says something.
func (n node) text() (string, error) {
	s, err := n.string()
	if err == nil && strings.TrimSpace(s) == "" {
		err = n.errorf("is empty")
	}
	return s, err
}

// kind names the type of the value as JSON calls it.
func (n node) kind() string {
	switch bytes.TrimLeft(n.raw, " \t\r\n")[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
