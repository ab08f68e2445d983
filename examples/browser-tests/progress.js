// The page under test: the tasks of an execution, live.

// follow calls show with the execution's state, {status, tasks}, whenever it changes, until the execution has ended.
export function follow(url, show) {
  const state = { status: 'connecting', tasks: {} };
  const change = (status) => {
    state.status = status;
    show(state);
  };
  const source = new EventSource(url);
  source.onopen = () => change('live');
  source.onerror = () => change(source.readyState === EventSource.CLOSED ? 'gone' : 'reconnecting');
  source.addEventListener('task', (event) => {
    const { name, progress } = JSON.parse(event.data);
    state.tasks[name] = progress;
    show(state);
  });
  source.addEventListener('stream-end', () => {
    source.close();
    change('done');
  });
  return source;
}

export function render(document, { status, tasks }) {
  document.querySelector('#status').textContent = status;
  document.querySelector('#tasks').replaceChildren(...Object.entries(tasks).map(([name, progress]) => {
    const item = document.createElement('li');
    item.textContent = `${name}: ${progress} %`;
    return item;
  }));
}
