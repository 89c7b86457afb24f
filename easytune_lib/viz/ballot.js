// Follows player.js, in one module with it: two motions to play, and a vote on them.

const BALLOT_CSS = `
.et-ballot { display: flex; flex-direction: column; gap: 8px; max-width: 760px; outline: none;
  color: var(--jp-content-font-color1, inherit);
  font: 13px/1.35 system-ui, -apple-system, 'Segoe UI', sans-serif; }
.et-ballot .et-where { display: flex; gap: 4px 12px; align-items: center; flex-wrap: wrap; }
.et-ballot .et-where progress { flex: 1 1 120px; height: 8px; accent-color: #0072b2; }
.et-ballot .et-asked { font-size: 15px; font-weight: 600; }
.et-ballot .et-votes { display: grid; gap: 8px; grid-template-columns: 1fr 1fr 1fr; }
.et-ballot button { font: inherit; color: inherit; background: transparent; cursor: pointer;
  border: 1px solid currentColor; border-radius: 8px; padding: 9px 6px; user-select: none; }
.et-ballot .et-stage button { padding: 2px 4px; border-color: var(--line); border-radius: 6px; }
.et-ballot .et-stage .et-caption { font-size: 15px; color: var(--ink); }
.et-ballot .et-votes button:hover { background: rgba(0, 114, 178, .15); }
.et-ballot .et-votes button[aria-pressed=true] { background: rgba(0, 114, 178, .3); }
.et-ballot .et-where button { padding: 2px 8px; }
.et-ballot kbd { font: 11px ui-monospace, monospace; opacity: .7; margin-left: 8px; }
.et-ballot [hidden] { display: none; }
`;

const CHOICES = { left: ['Left', '1'], same: ['Same', '2'], right: ['Right', '3'] };
const SOON = 500;  // ms: a click that falls on a pair this new was meant for the one before

export default {
  render({ model, el }) {
    const root = make('div', 'et-ballot'), head = make('div', 'et-where');
    root.tabIndex = -1;
    root.setAttribute('role', 'group');
    root.setAttribute('aria-label', 'Ballot');
    const where = make('span'), bar = make('progress'), back = make('button', '', 'Back');
    back.type = 'button';
    back.append(make('kbd', '', '⌫'));
    where.setAttribute('role', 'status');
    head.append(where, bar, back);
    const asked = make('div', 'et-asked'), stage = make('div', 'et-stage');
    const votes = make('div', 'et-votes'), note = make('div', 'et-note');
    note.setAttribute('role', 'status');
    const buttons = {};
    for (const [choice, [name, key]] of Object.entries(CHOICES)) {
      const button = buttons[choice] = make('button', '', name);
      button.type = 'button';
      button.append(make('kbd', '', key));
      button.addEventListener('click', e => { if (e.detail < 2) send(choice); });
      votes.append(button);
    }
    back.addEventListener('click', () => send('back'));
    root.append(make('style', '', BALLOT_CSS), head, asked, stage, votes, note);
    el.append(root);

    let player = null, since = 0;
    function send(choice) {
      const { place, total } = model.get('state'), now = performance.now();
      if (choice !== 'back' && (place >= total || now - since < SOON)) return;
      model.send({ choice, place, seconds: (now - since) / 1000 });
    }

    function show() {
      player?.dispose();
      stage.textContent = '';
      const spec = model.get('spec');
      player = spec.tracks ? mount(stage, spec) : null;
      since = performance.now();
    }

    function say() {
      const { place, total, voted, left, answer, notice } = model.get('state');
      const done = place >= total;
      where.textContent = done ? `${voted} of ${total} voted` :
        [`${place + 1} of ${total}`, left].filter(Boolean).join(' · ');
      Object.assign(bar, { max: total, value: voted });
      asked.textContent = done ? 'All pairs are voted on. Thank you.' : model.get('question');
      note.textContent = notice;
      votes.hidden = done;
      back.hidden = place === 0;
      for (const [choice, button] of Object.entries(buttons))
        button.setAttribute('aria-pressed', choice === answer);
    }

    root.addEventListener('keydown', e => {
      const choice = Object.keys(CHOICES).find(c => CHOICES[c][1] === e.key);
      const plain = !(e.ctrlKey || e.metaKey || e.altKey || e.repeat);
      if (plain && !e.target.matches('select') && (choice || e.key === 'Backspace')) {
        send(choice || 'back');
        e.preventDefault();
        e.stopPropagation();
      }
    }, true);  // before the player hears it
    root.addEventListener('keydown', e => e.stopPropagation());  // the notebook has keys of its own

    show();
    say();
    model.on('change:spec', show);
    model.on('change:state', say);
    return () => {
      model.off('change:spec', show);
      model.off('change:state', say);
      player?.dispose();
    };
  },
};
