// Of a group of labels only the largest connected component is kept, as the server does (model/postprocessing.py).

// Changes `labels` (R fastest) in place. Voxels that share a face, an edge or a corner are connected.
export function keepLargest(labels, [right, anterior, superior], group) {
  const inside = new Set(group);
  const component = new Uint32Array(labels.length); // 0: not visited
  const sizes = [0];
  for (let seed = 0; seed < labels.length; seed++) {
    if (component[seed] || !inside.has(labels[seed])) continue;
    sizes.push(flood(seed, sizes.length));
  }
  const largest = sizes.indexOf(Math.max(...sizes));
  for (let at = 0; at < labels.length; at++) if (component[at] && component[at] !== largest) labels[at] = 0;

  function flood(seed, number) {
    const waiting = [seed];
    component[seed] = number;
    let size = 0;
    while (waiting.length) {
      const at = waiting.pop();
      size++;
      for (const neighbour of neighbours(at)) {
        if (component[neighbour] || !inside.has(labels[neighbour])) continue;
        component[neighbour] = number;
        waiting.push(neighbour);
      }
    }
    return size;
  }

  function* neighbours(at) {
    const r = at % right;
    const a = Math.floor(at / right) % anterior;
    const s = Math.floor(at / (right * anterior));
    for (let z = Math.max(0, s - 1); z <= Math.min(superior - 1, s + 1); z++) {
      for (let y = Math.max(0, a - 1); y <= Math.min(anterior - 1, a + 1); y++) {
        for (let x = Math.max(0, r - 1); x <= Math.min(right - 1, r + 1); x++) yield x + right * (y + anterior * z);
      }
    }
  }
}
