'use strict'
// Tables sort by a click on a column head; a table that is wider than the window says that it scrolls.
const key = cell => {
  const data = cell.querySelector('data')
  if (data) return Number(data.value)
  const text = cell.textContent.trim()
  return text === '–' || text === '' ? null : text
}
const order = (a, b) => {
  if (typeof a === 'number' && typeof b === 'number') return a - b
  return String(a).localeCompare(String(b), 'en', { numeric: true })
}
const sort = (table, column, head) => {
  const falls = head.getAttribute('aria-sort') === 'ascending'
  for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort')
  head.setAttribute('aria-sort', falls ? 'descending' : 'ascending')
  const body = table.tBodies[0]
  const rows = [...body.rows].map(row => [key(row.cells[column]), row])
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null) // unknown values last
    return falls ? order(b, a) : order(a, b)
  })
  body.append(...rows.map(([, row]) => row))
}
for (const table of document.querySelectorAll('table')) {
  if (table.tBodies[0].rows.length < 2) continue
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement('button')
    button.type = 'button'
    button.append(...head.childNodes)
    button.addEventListener('click', () => sort(table, column, head))
    head.append(button)
  }
}
const measure = () => {
  for (const box of document.querySelectorAll('.box')) box.classList.toggle('scrolls', box.scrollWidth > box.clientWidth + 1)
}
addEventListener('resize', measure)
document.addEventListener('toggle', measure, true)
measure()
// A link to a run inside a folded part opens it.
addEventListener('hashchange', () => {
  const folded = document.getElementById(location.hash.slice(1))?.closest('details')
  if (folded) folded.open = true
})
